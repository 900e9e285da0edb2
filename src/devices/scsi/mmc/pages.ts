/** The mode pages of a CD-ROM (MMC-6 7). */
import type { ModePageSpec } from '../spc/mode.ts'
import type { CdDrive } from './drive.ts'

/** Highest speed, kB/s: 40 times that of an audio CD. */
export const TOP_SPEED = 7056
/** Cache of the drive, KiB, as it says. */
const CACHE = 512

const MUTE_PORTS = 0x0f

/** Pages 01h, 0Dh, 0Eh, 1Dh and 2Ah. */
export function cdModePages(drive: CdDrive): ModePageSpec[] {
  return [
    { code: 0x01, defaults: new Uint8Array(10) },
    // CD Device Parameters: 60 seconds a minute, 75 frames a second
    { code: 0x0d, defaults: Uint8Array.of(0, 0, 0, 60, 0, 75) },
    // CD Audio Control: ports 0 and 1 carry channels 0 and 1; IMMED as it must be
    {
      code: 0x0e,
      defaults: Uint8Array.of(0x04, 0, 0, 0, 0, 75, 1, 0xff, 2, 0xff, 0, 0, 0, 0),
      changeable: Uint8Array.of(
        0x06,
        0,
        0,
        0,
        0,
        0,
        MUTE_PORTS,
        0xff,
        MUTE_PORTS,
        0xff,
        MUTE_PORTS,
        0xff,
        MUTE_PORTS,
        0xff,
      ),
    },
    // Timeout and Protect: no group has a timeout
    { code: 0x1d, defaults: new Uint8Array(8) },
    capabilities(drive),
  ]
}

// MM Capabilities and Mechanical Status, indexes less 2
function capabilities(drive: CdDrive): ModePageSpec {
  const defaults = new Uint8Array(30)
  const view = new DataView(defaults.buffer)
  // Reads CD-R, CD-RW, method 2, DVD-ROM, DVD-R; mode 2 in both forms, many sessions
  defaults.set([0x1f, 0, 0x70, 0, 0x29, 0])
  view.setUint16(6, TOP_SPEED)
  view.setUint16(8, 256)
  view.setUint16(10, CACHE)
  view.setUint16(12, TOP_SPEED)
  return {
    code: 0x2a,
    defaults,
    refresh(values) {
      // Tray, eject, lock; and whether it is locked
      values[4] = 0x29 | (drive.isLocked ? 0x02 : 0)
      values[12] = drive.speed >>> 8
      values[13] = drive.speed & 0xff
    },
  }
}
