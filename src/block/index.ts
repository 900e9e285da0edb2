/** The block layer's public face. */
export {
  asDevice,
  BlockDevice,
  type BlockDriver,
  type Extent,
  type ExtentKind,
  type WriteOptions,
  type ZeroOptions,
} from './device.ts'
export {
  type CacheMode,
  Disk,
  type DiskOptions,
  type DiskStats,
  drainAll,
  type ErrorPolicy,
} from './disk.ts'
export { BlockError, type Errno, errnoOf } from './error.ts'
export { Filter, Remap } from './filter.ts'
export { CopyOnRead } from './filters/copy-on-read.ts'
export { DetectZeroes } from './filters/detect-zeroes.ts'
export { GatherDiscards, type GatherDiscardsOptions } from './filters/gather-discards.ts'
export { Overlay } from './filters/overlay.ts'
export { ReadAhead, type ReadAheadOptions } from './filters/readahead.ts'
export { Throttle, type ThrottleOptions } from './filters/throttle.ts'
export type { FormatCreateOptions, FormatDriver, FormatOpenOptions } from './format.ts'
export { formats } from './formats/index.ts'
export { closedGate, type Gate, type GatePolicy, type GateRequest, type Purpose } from './gate.ts'
export { bytesVec, type IoVec, VecBase, zeroVec } from './iovec.ts'
export {
  type CompleteOptions,
  Job,
  type JobBody,
  type JobControl,
  type JobErrorPolicy,
  type JobOptions,
  type JobStatus,
  type Progress,
} from './jobs/job.ts'
export {
  type BackupDiskOptions,
  backup,
  type CommitOptions,
  commit,
  type DirtyBitmap,
  type DirtyBitmaps,
  dirtyBitmaps,
  type MirrorDiskOptions,
  mirror,
  type SnapshotOptions,
  type StreamOptions,
  snapshot,
  stream,
} from './live.ts'
export { after, type Now, settle } from './now.ts'
export { createImage, type ImageOptions, type OpenDiskOptions, openDisk, openImage, type Source } from './open.ts'
export type { FileOptions, Host, Preallocation, ProtocolDriver, ProtocolOpenOptions } from './protocol.ts'
export { BlobDisk } from './protocols/blob.ts'
export { Memory } from './protocols/memory.ts'
