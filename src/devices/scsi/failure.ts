/** What a failure of the block layer is to a guest. */
import { type Errno, errnoOf } from '../../block/error.ts'
import {
  COMMUNICATION_FAILURE,
  type Condition,
  INSUFFICIENT_RESOURCES,
  LBA_OUT_OF_RANGE,
  MEDIUM_NOT_PRESENT,
  SPACE_ALLOCATION_FAILED,
  TIMEOUT_ON_LOGICAL_UNIT,
  WRITE_PROTECTED,
} from './sense.ts'

// SPC-4 annex E: what a host's errno is to a guest; ECANCELED is not here, for nobody is told of it
const CONDITION_OF: Readonly<Partial<Record<Errno, Condition>>> = {
  ENOSPC: SPACE_ALLOCATION_FAILED,
  EDQUOT: SPACE_ALLOCATION_FAILED,
  EROFS: WRITE_PROTECTED,
  EACCES: WRITE_PROTECTED,
  EPERM: WRITE_PROTECTED,
  EINVAL: LBA_OUT_OF_RANGE,
  ENOMEM: INSUFFICIENT_RESOURCES,
  EBUSY: INSUFFICIENT_RESOURCES,
  ENOMEDIUM: MEDIUM_NOT_PRESENT,
  ETIMEDOUT: TIMEOUT_ON_LOGICAL_UNIT,
  ECONNRESET: COMMUNICATION_FAILURE,
  ESHUTDOWN: COMMUNICATION_FAILURE,
}

/** The condition that tells a guest of a block layer's error; `otherwise` for a plain failure of the medium. */
export function conditionOf(error: unknown, otherwise: Condition): Condition {
  return CONDITION_OF[errnoOf(error)] ?? otherwise
}

/** Whether a thrown thing is a failure that the block layer reports, not a mistake of this program. */
export function isFailure(error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'code' in error
}
