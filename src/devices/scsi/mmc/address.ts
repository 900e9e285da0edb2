/** Addresses on a CD: logical blocks, and minutes, seconds and frames (MMC-6 4.2.3). */

/** Bytes of a block of user data. */
export const BLOCK = 2048
/** Blocks of a CD of 80 minutes; a larger medium is a DVD. */
export const CD_BLOCKS = 80 * 60 * 75

const FRAMES = 75
/** Block 0 is two seconds after the start of the program area. */
const PREGAP = 2 * FRAMES

/** Minute, second and frame of a block; where minutes do not fit a byte, the end of minute 255. */
export function msfOf(lba: number): readonly [minute: number, second: number, frame: number] {
  const frames = lba + PREGAP
  const minute = Math.floor(frames / (60 * FRAMES))
  return minute > 255 ? [255, 59, 74] : [minute, Math.floor(frames / FRAMES) % 60, frames % FRAMES]
}

/** Block of a minute, second and frame; negative in the pregap. */
export function lbaOf(minute: number, second: number, frame: number): number {
  return (minute * 60 + second) * FRAMES + frame - PREGAP
}

/** Writes a block's address as 4 bytes, in either form. */
export function putAddress(bytes: Uint8Array, at: number, lba: number, msf: boolean): void {
  if (msf) bytes.set([0, ...msfOf(lba)], at)
  else new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, lba)
}
