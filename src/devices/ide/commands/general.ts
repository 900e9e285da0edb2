/** Commands that belong to no feature set: IDENTIFY DEVICE, NOP, FLUSH CACHE, buffers, geometry [ATA8-ACS 7; ATA-5 8 for old ones]. */
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { identify } from '../identify.ts'

const flush = (ata: AtaDisk) => {
  ata.power.use()
  ata.completeAfter(() => (ata.disk.readOnly ? undefined : ata.disk.flush()))
}

const readBuffer = (ata: AtaDisk) => {
  const bytes = ata.blank(512)
  bytes.set(ata.sectorBuffer)
  ata.send(512)
}

const keepBuffer = (ata: AtaDisk, data: Uint8Array) => {
  ata.sectorBuffer.set(data)
  ata.complete()
}

const seek = (ata: AtaDisk) => {
  // The count is no part of the command
  ata.count = (ata.count & 0xff00) | 1
  if (ata.extent(false) !== undefined) ata.complete()
}

export const generalCommands: CommandTable = [
  // NOP is always aborted (7.19.2): it may stop queued commands, and there are none
  [0x00, { name: 'NOP', protocol: 'non-data', whileLocked: true, run: (ata) => ata.abort() }],
  // Retired, but a BIOS or DOS of the time begins with it [ATA-3 7.23]
  [0x10, { name: 'RECALIBRATE', protocol: 'non-data', run: (ata) => ata.complete() }],
  [0x70, { name: 'SEEK', protocol: 'non-data', run: seek }],
  [
    0x91,
    {
      name: 'INITIALIZE DEVICE PARAMETERS',
      protocol: 'non-data',
      whileLocked: true,
      run: (ata) => {
        const sectors = ata.count & 0xff
        const heads = (ata.device & 0x0f) + 1
        if (sectors === 0 || heads * sectors > ata.sectors) ata.abort()
        else {
          ata.settings.translation = { heads, sectors }
          ata.complete()
        }
      },
    },
  ],
  [0xe4, { name: 'READ BUFFER', protocol: 'pio-in', whileLocked: true, run: readBuffer }],
  [0xe9, { name: 'READ BUFFER DMA', protocol: 'dma-in', whileLocked: true, run: readBuffer }],
  [
    0xe8,
    {
      name: 'WRITE BUFFER',
      protocol: 'pio-out',
      whileLocked: true,
      run: (ata) => ata.receive(512),
      received: keepBuffer,
    },
  ],
  [
    0xeb,
    {
      name: 'WRITE BUFFER DMA',
      protocol: 'dma-out',
      whileLocked: true,
      run: (ata) => ata.receive(512),
      received: keepBuffer,
    },
  ],
  [0xe7, { name: 'FLUSH CACHE', protocol: 'non-data', run: flush }],
  [0xea, { name: 'FLUSH CACHE EXT', protocol: 'non-data', run: flush }],
  [
    0xec,
    {
      name: 'IDENTIFY DEVICE',
      protocol: 'pio-in',
      whileLocked: true,
      whileSanitizing: () => true,
      run: (ata) => {
        ata.room(512).set(identify(ata))
        ata.send(512)
      },
    },
  ],
]
