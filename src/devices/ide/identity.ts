/** What a drive says it is: strings, numbers and transfer modes that the host reads but cannot change. */
import { BlockError } from '../../block/error.ts'

/** The parts of a drive's identity that its owner may choose. */
export interface IdentityOptions {
  /** Up to 40 characters of printable ASCII. */
  readonly model?: string
  /** Up to 20. */
  readonly serial?: string
  /** Up to 8. */
  readonly firmware?: string
  /** World wide name: 64 bits, of which the first four say what naming authority gave it. */
  readonly wwn?: bigint
  /** Turns a minute, 1 for a medium that does not turn, 0 (default) for no word about it. */
  readonly rotationRate?: number
}

export interface DriveIdentity {
  readonly model: string
  readonly serial: string
  readonly firmware: string
  readonly wwn: bigint | undefined
  readonly rotationRate: number
  /** Whether the controller does Ultra DMA, so that a mode of it is in use from the start, as if firmware had set it. */
  readonly ultra: boolean
}

/** Word 217 of IDENTIFY DEVICE [ATA8-ACS 7.16.7.77]: 0, 1 or a speed of 0401h to FFFEh. */
function checkRate(rate: number): number {
  if (rate === 0 || rate === 1 || (Number.isInteger(rate) && rate >= 0x401 && rate <= 0xfffe)) return rate
  throw new BlockError(
    'EINVAL',
    `Cannot use rotation_rate ${rate}: it must be 0 (not reported), 1 (does not turn) or 1025 to 65534`,
  )
}

function checkText(value: string, limit: number, what: string): string {
  if (value.length > limit || !/^[\x20-\x7e]*$/.test(value)) {
    throw new BlockError(
      'EINVAL',
      `Cannot use ${what} '${value}': it must be up to ${limit} printable ASCII characters`,
    )
  }
  return value
}

/** Checks what the owner chose and fills in the rest; throws EINVAL for what does not fit its field. */
export function identityOf(
  options: IdentityOptions,
  defaults: { model: string; serial: string; ultra: boolean },
): DriveIdentity {
  const { wwn } = options
  if (wwn !== undefined && (wwn < 0n || wwn >= 1n << 64n))
    throw new BlockError('EINVAL', `Cannot use wwn ${wwn}: it must fit 64 bits`)
  return {
    model: checkText(options.model ?? defaults.model, 40, 'model'),
    serial: checkText(options.serial || defaults.serial, 20, 'serial'),
    firmware: checkText(options.firmware ?? '1.0', 8, 'firmware'),
    wwn,
    rotationRate: checkRate(options.rotationRate ?? 0),
    ultra: defaults.ultra,
  }
}
