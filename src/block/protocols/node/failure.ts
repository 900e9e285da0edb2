/** The host's errors as block layer errors. */
import { constants } from 'node:os'
import { getSystemErrorMap } from 'node:util'
import { BlockError, errnoOf, messageOf } from '../../error.ts'

/** A BlockError for a system call that failed with the positive number `errno`; `doing` says what was tried. */
export function hostError(errno: number, doing: string): BlockError {
  const known = getSystemErrorMap().get(-errno)
  const code = known?.[0] ?? 'EIO'
  return new BlockError(errnoOf({ code }), `${doing}: ${known?.[1] ?? 'error'} (${known?.[0] ?? errno})`)
}

/** A BlockError for what a function of Node threw. */
export function nodeError(error: unknown, doing: string): BlockError {
  if (error instanceof BlockError) return error
  const errno = typeof error === 'object' && error !== null && 'errno' in error ? error.errno : undefined
  if (typeof errno === 'number' && errno < 0) return hostError(-errno, doing)
  return new BlockError(errnoOf(error), `${doing}: ${messageOf(error)}`, { cause: error })
}

/** Linux' error numbers that are handled, not reported. */
export const { EAGAIN, EBUSY, EINTR, EINVAL, EOPNOTSUPP, ENOSYS, EACCES, EIO, EPERM, ENODEV, ENXIO, ENOTTY, EXDEV } =
  constants.errno
