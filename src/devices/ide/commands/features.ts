/** SET FEATURES and SET MULTIPLE MODE [ATA8-ACS 7.50, 7.54]. */
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { MULTIPLE_LIMIT } from '../settings.ts'

// Subcommands of SET FEATURES, in the Features register [ATA8-ACS table 44]
const WRITE_CACHE_ON = 0x02
const TRANSFER_MODE = 0x03
const APM_ON = 0x05
const LOOK_AHEAD_OFF = 0x55
const REVERT_OFF = 0x66
const WRITE_CACHE_OFF = 0x82
const APM_OFF = 0x85
const LOOK_AHEAD_ON = 0xaa
const REVERT_ON = 0xcc

function setFeatures(ata: AtaDisk): void {
  const { settings } = ata
  const count = ata.count & 0xff
  switch (ata.features & 0xff) {
    case WRITE_CACHE_ON:
    case WRITE_CACHE_OFF:
      ata.completeAfter(() => ata.disk.setWriteCache((ata.features & 0xff) === WRITE_CACHE_ON))
      return
    case TRANSFER_MODE:
      if (!settings.setTransferMode(count)) {
        ata.abort()
        return
      }
      break
    case APM_ON:
      if (count === 0 || count === 0xff) {
        ata.abort()
        return
      }
      settings.powerManagement = count
      break
    case APM_OFF:
      settings.powerManagement = 0
      break
    case LOOK_AHEAD_OFF:
    case LOOK_AHEAD_ON:
      settings.lookAhead = (ata.features & 0xff) === LOOK_AHEAD_ON
      break
    case REVERT_OFF:
    case REVERT_ON:
      settings.revert = (ata.features & 0xff) === REVERT_ON
      break
    default:
      ata.abort()
      return
  }
  ata.complete()
}

export const featureCommands: CommandTable = [
  [
    0xc6,
    {
      name: 'SET MULTIPLE MODE',
      protocol: 'non-data',
      whileLocked: true,
      run: (ata) => {
        const count = ata.count & 0xff
        if (count > MULTIPLE_LIMIT || (count & (count - 1)) !== 0) {
          ata.settings.multiple = 0
          ata.abort()
          return
        }
        ata.settings.multiple = count
        ata.complete()
      },
    },
  ],
  [0xef, { name: 'SET FEATURES', protocol: 'non-data', whileLocked: true, run: setFeatures }],
]
