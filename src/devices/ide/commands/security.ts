/** SECURITY SET PASSWORD, UNLOCK, ERASE, FREEZE LOCK, DISABLE PASSWORD [ATA8-ACS 7.44 to 7.49]. */
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'

const ERASE_PREPARE = 0xf3
/** Bytes that are erased before the guest has its turn again, where the image has its own way to do it, and where not. */
const ERASE_STEP = 64 << 20
const WRITE_STEP = 1 << 20

const receivePassword = (ata: AtaDisk) => {
  if (ata.security.frozen) ata.abort()
  else ata.receive(512)
}

const end = (ata: AtaDisk, done: boolean) => {
  if (done) ata.complete()
  else ata.abort()
}

function erase(ata: AtaDisk): void {
  const { disk } = ata
  const step = disk.device.driver.zero === undefined ? WRITE_STEP : ERASE_STEP
  const next = (at: number) => {
    if (at >= disk.size) {
      ata.work(
        () => disk.flush(),
        () => {
          ata.security.erased()
          ata.complete()
        },
        () => ata.abort(),
      )
      return
    }
    const length = Math.min(step, disk.size - at)
    ata.work(
      () => disk.zero(at, length, { unmap: true }),
      () => ata.later(() => next(at + length)),
      () => ata.abort(),
    )
  }
  next(0)
}

export const securityCommands: CommandTable = [
  [
    0xf1,
    {
      name: 'SECURITY SET PASSWORD',
      protocol: 'pio-out',
      run: receivePassword,
      received: (ata, data) => end(ata, ata.security.setPassword(data)),
    },
  ],
  [
    0xf2,
    {
      name: 'SECURITY UNLOCK',
      protocol: 'pio-out',
      whileLocked: true,
      whileSanitizing: () => true,
      run: receivePassword,
      received: (ata, data) => end(ata, ata.security.unlock(data)),
    },
  ],
  [
    ERASE_PREPARE,
    {
      name: 'SECURITY ERASE PREPARE',
      protocol: 'non-data',
      whileLocked: true,
      run: (ata) => end(ata, !ata.security.frozen),
    },
  ],
  [
    0xf4,
    {
      name: 'SECURITY ERASE UNIT',
      protocol: 'pio-out',
      whileLocked: true,
      run: (ata) => {
        if (ata.previous !== ERASE_PREPARE || ata.disk.readOnly) ata.abort()
        else receivePassword(ata)
      },
      received: (ata, data) => {
        if (ata.security.mayErase(data)) erase(ata)
        else ata.abort()
      },
    },
  ],
  [0xf5, { name: 'SECURITY FREEZE LOCK', protocol: 'non-data', run: (ata) => end(ata, ata.security.freeze()) }],
  [
    0xf6,
    {
      name: 'SECURITY DISABLE PASSWORD',
      protocol: 'pio-out',
      run: receivePassword,
      received: (ata, data) => end(ata, ata.security.disable(data)),
    },
  ],
]
