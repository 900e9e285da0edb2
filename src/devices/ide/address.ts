/** Where a command's data are: the three ways to write an address into the task file [ATA8-ACS 4.1; ATA-5 6.2 for CHS]. */

/** The task file's part that holds an address and a count; registers of 16 bits are the previous content above the current. */
export interface AddressRegisters {
  count: number
  lbaLow: number
  lbaMid: number
  lbaHigh: number
  device: number
}

/** Heads and sectors per track by which a CHS address is counted. */
export interface Translation {
  readonly heads: number
  readonly sectors: number
}

export type Form = 'chs' | 'lba28' | 'lba48'

/** Largest capacity that 28 bits address, sectors [ATA8-ACS 4.1.2]. */
export const LBA28_LIMIT = 0x0fff_ffff
/** Largest capacity that CHS addresses [ATA-5 annex B]. */
export const CHS_LIMIT = 16_514_064
const DEVICE_LBA = 1 << 6

/** Which form the registers are in, for a command with 28-bit addresses, or with 48-bit ones. */
export function formOf(registers: AddressRegisters, ext: boolean): Form {
  return ext ? 'lba48' : (registers.device & DEVICE_LBA) !== 0 ? 'lba28' : 'chs'
}

/** The sector that is addressed; undefined for a CHS address outside the translation. */
export function addressOf(registers: AddressRegisters, form: Form, translation: Translation): number | undefined {
  const low = registers.lbaLow & 0xff
  const mid = registers.lbaMid & 0xff
  const high = registers.lbaHigh & 0xff
  if (form === 'chs') {
    const cylinder = mid | (high << 8)
    const head = registers.device & 0x0f
    if (low === 0 || low > translation.sectors || head >= translation.heads) return undefined
    return (cylinder * translation.heads + head) * translation.sectors + low - 1
  }
  const bits24 = low | (mid << 8) | (high << 16)
  if (form === 'lba28') return ((registers.device & 0x0f) << 24) + bits24
  const upper = (registers.lbaLow >>> 8) | ((registers.lbaMid >>> 8) << 8) | ((registers.lbaHigh >>> 8) << 16)
  return upper * 2 ** 24 + bits24
}

/** Sectors that are asked for; zero stands for the most that there can be. */
export function countOf(registers: AddressRegisters, form: Form): number {
  return form === 'lba48' ? registers.count || 0x1_0000 : registers.count & 0xff || 0x100
}

/** Writes an address back: the last sector of a transfer, or the one that failed. */
export function putAddress(registers: AddressRegisters, form: Form, lba: number, translation: Translation): void {
  if (form === 'chs') {
    const track = Math.floor(lba / translation.sectors)
    const cylinder = Math.floor(track / translation.heads)
    registers.lbaLow = (lba % translation.sectors) + 1
    registers.lbaMid = cylinder & 0xff
    registers.lbaHigh = (cylinder >>> 8) & 0xff
    registers.device = (registers.device & 0xf0) | (track % translation.heads)
    return
  }
  const upper = form === 'lba48' ? Math.floor(lba / 2 ** 24) : 0
  registers.lbaLow = (lba & 0xff) | ((upper & 0xff) << 8)
  registers.lbaMid = ((lba >>> 8) & 0xff) | (upper & 0xff00)
  registers.lbaHigh = ((lba >>> 16) & 0xff) | ((upper >>> 8) & 0xff00)
  if (form === 'lba28') registers.device = (registers.device & 0xf0) | (Math.floor(lba / 2 ** 24) & 0x0f)
}
