/** Who a logical unit says it is: the properties that the user gives, in the shapes that INQUIRY wants. */
import { BlockError } from '../../block/error.ts'

/** Properties of a SCSI drive, named as for `-device scsi-hd`. */
export interface UnitOptions {
  /** T10 vendor identification, up to 8 characters; default `BLOCK86`. */
  readonly vendor?: string
  /** Product identification, up to 16 characters; default `HARDDISK` or `CD-ROM`. */
  readonly product?: string
  /** Product revision level, up to 4 characters; default `1.0`. */
  readonly ver?: string
  /** Unit serial number, up to 36 characters; default the disk's. */
  readonly serial?: string
  /** Text of the designator in VPD page 83h, up to 236 characters; default the serial number. */
  readonly deviceId?: string
  /** World-wide name of the unit, 64 bits. */
  readonly wwn?: bigint
  /** World-wide name of the target port, 64 bits. */
  readonly portWwn?: bigint
  /** Whether a disk's medium can be taken out; a CD-ROM's always can. */
  readonly removable?: boolean
  /** Rotations per minute; 1 (default) for a medium that does not rotate, which spares guests what they do for disks that seek; 0 says nothing. */
  readonly rotationRate?: number
  /** Whether DPO and FUA are offered; default true. */
  readonly dpofua?: boolean
}

/** A unit's identity, checked and padded. */
export interface Identity {
  readonly vendor: string
  readonly product: string
  readonly revision: string
  readonly serial: string
  readonly deviceId: string
  readonly wwn: bigint | undefined
  readonly portWwn: bigint | undefined
}

function text(name: string, value: string, length: number): string {
  if (value.length > length || !/^[\x20-\x7e]*$/.test(value)) {
    throw new BlockError(
      'EINVAL',
      `Cannot use ${name} '${value}': it must be up to ${length} printable ASCII characters`,
    )
  }
  return value
}

function name64(name: string, value: bigint | undefined): bigint | undefined {
  if (value !== undefined && (value < 0n || value >= 1n << 64n)) {
    throw new BlockError('EINVAL', `Cannot use ${name} ${value}: it must fit 64 bits`)
  }
  return value === 0n ? undefined : value
}

/** Checks the options; throws EINVAL for one that does not fit its field. */
export function identity(options: UnitOptions, product: string, serial: string): Identity {
  const number = text('serial', options.serial ?? serial, 36)
  return {
    vendor: text('vendor', options.vendor ?? 'BLOCK86', 8).padEnd(8),
    product: text('product', options.product ?? product, 16).padEnd(16),
    revision: text('ver', options.ver ?? '1.0', 4).padEnd(4),
    serial: number,
    deviceId: text('device_id', options.deviceId ?? number, 236),
    wwn: name64('wwn', options.wwn),
    portWwn: name64('port_wwn', options.portWwn),
  }
}

/** ASCII bytes of a text. */
export function ascii(value: string): Uint8Array {
  return Uint8Array.from(value, (character) => character.charCodeAt(0))
}
