/** block86: drives for v86, and the disks to put into them. The block layer is `block86/block`, the controllers are `block86/devices`. */
export {
  BlockError,
  type CacheMode,
  createImage,
  Disk,
  type DiskOptions,
  type DiskStats,
  type Errno,
  type ErrorPolicy,
  type OpenDiskOptions,
  openDisk,
  openImage,
  type Source,
} from './block/index.ts'
export {
  type AttachOptions,
  attachDrives,
  type Drive,
  type Drives,
  type Emulator,
  type IdeDrive,
  type ScsiDrive,
  TESTED_VERSIONS,
  type VirtioDrive,
} from './v86.ts'
