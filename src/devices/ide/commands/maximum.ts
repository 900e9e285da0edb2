/** READ NATIVE MAX and SET MAX: the Host Protected Area [ATA8-ACS 7.31, 7.32, 7.51, 7.52]. */
import { addressOf, formOf, LBA28_LIMIT, putAddress } from '../address.ts'
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { ERROR_IDNF } from '../registers.ts'

const READ_NATIVE_MAX = 0xf8
const READ_NATIVE_MAX_EXT = 0x27

// Features of F9h
const SET_PASSWORD = 0x01
const LOCK = 0x02
const UNLOCK = 0x03
const FREEZE_LOCK = 0x04

const PASSWORD_AT = 2
const PASSWORD_END = 34

/** Count bit 0: the value outlives a power cycle. */
const VALUE_VOLATILE = 1 << 0

const readNativeMax = (ext: boolean) => (ata: AtaDisk) => {
  const form = formOf(ata, ext)
  const last = ata.maximum.native - 1
  const limit = form === 'lba48' ? last : Math.min(last, LBA28_LIMIT)
  if (form === 'chs') {
    const { heads, sectors } = ata.settings.translation
    putAddress(ata, form, ata.settings.cylinders(ata.maximum.native) * heads * sectors - 1, ata.settings.translation)
  } else putAddress(ata, form, limit, ata.settings.translation)
  ata.complete()
}

const setMax = (ata: AtaDisk, ext: boolean) => {
  const { maximum } = ata
  if (ata.previous !== (ext ? READ_NATIVE_MAX_EXT : READ_NATIVE_MAX) || maximum.locked || maximum.frozen) {
    ata.abort()
    return
  }
  const last = addressOf(ata, formOf(ata, ext), ata.settings.translation)
  if (last === undefined || !maximum.set(last + 1, (ata.count & VALUE_VOLATILE) !== 0)) {
    ata.fail(ERROR_IDNF)
    return
  }
  ata.settings.resized(ata.sectors)
  ata.complete()
}

export const maximumCommands: CommandTable = [
  [
    READ_NATIVE_MAX,
    {
      name: 'READ NATIVE MAX ADDRESS',
      protocol: 'non-data',
      whileLocked: true,
      run: readNativeMax(false),
    },
  ],
  [
    READ_NATIVE_MAX_EXT,
    {
      name: 'READ NATIVE MAX ADDRESS EXT',
      protocol: 'non-data',
      whileLocked: true,
      run: readNativeMax(true),
    },
  ],
  [
    0xf9,
    {
      name: 'SET MAX',
      // SET PASSWORD and UNLOCK bring a sector; the other subcommands none
      protocol: 'pio-out',
      run: (ata) => {
        const { maximum } = ata
        const subcommand = ata.previous === READ_NATIVE_MAX ? 0 : ata.features & 0xff
        switch (subcommand) {
          case SET_PASSWORD:
            if (maximum.locked || maximum.frozen) ata.abort()
            else ata.receive(512)
            break
          case LOCK:
            if (maximum.locked || maximum.frozen || !maximum.hasPassword) ata.abort()
            else {
              maximum.lock()
              ata.complete()
            }
            break
          case UNLOCK:
            if (!maximum.locked || maximum.frozen) ata.abort()
            else ata.receive(512)
            break
          case FREEZE_LOCK:
            if (maximum.locked || !maximum.hasPassword) ata.abort()
            else {
              maximum.freeze()
              ata.complete()
            }
            break
          case 0:
            setMax(ata, false)
            break
          default:
            ata.abort()
        }
      },
      received: (ata, data) => {
        const password = data.subarray(PASSWORD_AT, PASSWORD_END)
        if ((ata.features & 0xff) === SET_PASSWORD) ata.maximum.setPassword(password)
        else if (!ata.maximum.unlock(password)) {
          ata.abort()
          return
        }
        ata.complete()
      },
    },
  ],
  [0x37, { name: 'SET MAX ADDRESS EXT', protocol: 'non-data', run: (ata) => setMax(ata, true) }],
]
