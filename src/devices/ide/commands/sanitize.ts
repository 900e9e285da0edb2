/** SANITIZE DEVICE and its subcommands [ACS-3 7.36]. */
import { addressOf, putAddress } from '../address.ts'
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'

// Features register, 16 bits
const STATUS = 0x0000
const BLOCK_ERASE = 0x0012
const OVERWRITE = 0x0014
const FREEZE_LOCK = 0x0020
const ANTIFREEZE_LOCK = 0x0040

// What the LBA must say, so that nobody erases a drive by mistake
const BLOCK_ERASE_KEY = 0x426b_4572
const OVERWRITE_KEY = 0x4f57
const FREEZE_LOCK_KEY = 0x4672_4c6b
const ANTIFREEZE_LOCK_KEY = 0x416e_7469

// Count register of the request, and of the answer
const CLEAR_FAILURE = 1 << 0
const FAILURE_MODE = 1 << 4
const INVERT = 1 << 7
const SUCCEEDED = 1 << 15
const IN_PROGRESS = 1 << 14
const FROZEN = 1 << 13
const ANTIFREEZE = 1 << 12

// SANITIZE DEVICE ERROR REASON, in LBA(7:0) of an aborted command
const REASON_FAILED = 1
const REASON_UNSUPPORTED = 2
const REASON_FROZEN = 3
const REASON_ANTIFREEZE = 4

function refuse(ata: AtaDisk, reason: number): void {
  ata.lbaLow = reason
  ata.lbaMid = 0
  ata.lbaHigh = 0
  ata.abort()
}

function answer(ata: AtaDisk): void {
  const { state, antifreeze, progress } = ata.sanitize
  ata.count =
    (state === 'succeeded' ? SUCCEEDED : 0) |
    (state === 'running' ? IN_PROGRESS : 0) |
    (state === 'frozen' ? FROZEN : 0) |
    (antifreeze ? ANTIFREEZE : 0)
  putAddress(ata, 'lba48', progress, ata.settings.translation)
  ata.complete()
}

/** Whether an operation may begin now. */
function mayBegin(ata: AtaDisk, keyed: boolean): boolean {
  const { state } = ata.sanitize
  if (state === 'frozen') refuse(ata, REASON_FROZEN)
  else if (!keyed || state === 'running' || ata.disk.readOnly) refuse(ata, 0)
  else return true
  return false
}

function run(ata: AtaDisk): void {
  const { sanitize } = ata
  const key = addressOf(ata, 'lba48', ata.settings.translation) ?? 0
  const lenient = (ata.count & FAILURE_MODE) !== 0
  switch (ata.features) {
    case STATUS:
      if (sanitize.state === 'failed' && ((ata.count & CLEAR_FAILURE) === 0 || !sanitize.clear()))
        refuse(ata, REASON_FAILED)
      else answer(ata)
      break
    case BLOCK_ERASE:
      if (!mayBegin(ata, key === BLOCK_ERASE_KEY)) break
      sanitize.erase(lenient)
      answer(ata)
      break
    case OVERWRITE:
      if (!mayBegin(ata, Math.floor(key / 2 ** 32) === OVERWRITE_KEY)) break
      sanitize.overwrite(key % 2 ** 32, ata.count & 0x0f || 16, (ata.count & INVERT) !== 0, lenient)
      answer(ata)
      break
    case FREEZE_LOCK:
      if (key !== FREEZE_LOCK_KEY || sanitize.busy) refuse(ata, 0)
      else if (!sanitize.freeze()) refuse(ata, REASON_ANTIFREEZE)
      else answer(ata)
      break
    case ANTIFREEZE_LOCK:
      if (key !== ANTIFREEZE_LOCK_KEY || sanitize.busy) refuse(ata, 0)
      else if (sanitize.state === 'frozen') refuse(ata, REASON_FROZEN)
      else {
        sanitize.preventFreeze()
        answer(ata)
      }
      break
    default:
      refuse(ata, REASON_UNSUPPORTED)
  }
}

export const sanitizeCommands: CommandTable = [
  [0xb4, { name: 'SANITIZE DEVICE', protocol: 'non-data', whileSanitizing: () => true, run }],
]
