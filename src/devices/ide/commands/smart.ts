/** SMART and its subcommands [ATA8-ACS 7.53]. */
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { IDENTIFY_LOG, PAGE } from '../logs.ts'
import { SMART_FAILED_HIGH, SMART_FAILED_MID, SMART_HIGH, SMART_MID } from '../smart/index.ts'
import { ABORT, CAPTIVE, CONVEYANCE, EXTENDED, OFFLINE, SELECTIVE, SHORT } from '../smart/selftest.ts'

// Features register [ATA8-ACS table 56]
const READ_DATA = 0xd0
const READ_THRESHOLDS = 0xd1
const AUTOSAVE = 0xd2
const SAVE_VALUES = 0xd3
const EXECUTE_OFFLINE = 0xd4
const READ_LOG = 0xd5
const WRITE_LOG = 0xd6
const ENABLE = 0xd8
const DISABLE = 0xd9
const RETURN_STATUS = 0xda

const AUTOSAVE_ON = 0xf1

function executeOffline(ata: AtaDisk): void {
  const test = ata.lbaLow & 0xff
  const { smart } = ata
  switch (test) {
    case OFFLINE:
      smart.collect()
      break
    case ABORT:
      smart.selfTest.abort()
      break
    case SHORT:
    case EXTENDED:
    case CONVEYANCE:
    case SELECTIVE:
      smart.selfTest.start(test)
      break
    case CAPTIVE | SHORT:
    case CAPTIVE | EXTENDED:
    case CAPTIVE | CONVEYANCE:
    case CAPTIVE | SELECTIVE:
      smart.selfTest.start(test)
      return
    default:
      ata.abort()
      return
  }
  ata.complete()
}

function readLog(ata: AtaDisk): void {
  const address = ata.lbaLow & 0xff
  const count = ata.count & 0xff
  if (count === 0 || count > ata.logs.pages(address, 'smart')) {
    ata.abort()
    return
  }
  ata.logs.read(address, 'smart', 0, ata.blank(count * PAGE))
  ata.send(count * PAGE)
}

function writeLog(ata: AtaDisk): void {
  const address = ata.lbaLow & 0xff
  const count = ata.count & 0xff
  if (count === 0 || count > ata.logs.pages(address, 'smart') || !ata.logs.writable(address)) ata.abort()
  else ata.receive(count * PAGE)
}

function returnStatus(ata: AtaDisk): void {
  ata.lbaMid = ata.smart.healthy ? SMART_MID : SMART_FAILED_MID
  ata.lbaHigh = ata.smart.healthy ? SMART_HIGH : SMART_FAILED_HIGH
  ata.complete()
}

function run(ata: AtaDisk): void {
  const { smart } = ata
  const subcommand = ata.features & 0xff
  if (
    (ata.lbaMid & 0xff) !== SMART_MID ||
    (ata.lbaHigh & 0xff) !== SMART_HIGH ||
    (!smart.enabled && subcommand !== ENABLE)
  ) {
    ata.abort()
    return
  }
  switch (subcommand) {
    case READ_DATA:
      smart.data(ata.blank(PAGE))
      ata.present(PAGE)
      break
    case READ_THRESHOLDS:
      smart.thresholds(ata.blank(PAGE))
      ata.present(PAGE)
      break
    case AUTOSAVE:
      smart.autosave = (ata.count & 0xff) === AUTOSAVE_ON
      ata.complete()
      break
    case SAVE_VALUES:
      ata.complete()
      break
    case EXECUTE_OFFLINE:
      executeOffline(ata)
      break
    case READ_LOG:
      readLog(ata)
      break
    case WRITE_LOG:
      writeLog(ata)
      break
    case ENABLE:
    case DISABLE:
      smart.enabled = subcommand === ENABLE
      ata.complete()
      break
    case RETURN_STATUS:
      returnStatus(ata)
      break
    default:
      ata.abort()
  }
}

export const smartCommands: CommandTable = [
  [
    0xb0,
    {
      name: 'SMART',
      // Each subcommand has its own protocol; none of them is DMA
      protocol: 'pio-in',
      whileLocked: true,
      whileSanitizing: (ata) =>
        (ata.features & 0xff) === RETURN_STATUS ||
        ((ata.features & 0xff) === READ_LOG && (ata.lbaLow & 0xff) === IDENTIFY_LOG),
      run,
      received: (ata, data) => {
        if (ata.logs.write(ata.lbaLow & 0xff, 0, data)) ata.complete()
        else ata.abort()
      },
    },
  ],
]
