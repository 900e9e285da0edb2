/** The one error of the block layer: a sentence for people, an errno for machines. */

/** POSIX names of what can go wrong, as a guest's controller, a tool's exit status or an NBD reply needs them. */
export type Errno =
  | 'EIO'
  | 'ENOSPC'
  | 'EDQUOT'
  | 'EINVAL'
  | 'EACCES'
  | 'EPERM'
  | 'ENOENT'
  | 'EEXIST'
  | 'EISDIR'
  | 'EROFS'
  | 'EBUSY'
  | 'EFBIG'
  | 'ENOMEM'
  | 'ENOTSUP'
  | 'ENOMEDIUM'
  | 'ECANCELED'
  | 'ETIMEDOUT'
  | 'ESHUTDOWN'
  | 'ECONNRESET'
  | 'EILSEQ'
  | 'EBADMSG'

/** An operation of the block layer failed; `message` says what was tried, on what, and the state that was met. */
export class BlockError extends Error {
  override readonly name = 'BlockError'
  readonly code: Errno

  constructor(code: Errno, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

const known = new Set<string>([
  'EIO',
  'ENOSPC',
  'EDQUOT',
  'EINVAL',
  'EACCES',
  'EPERM',
  'ENOENT',
  'EEXIST',
  'EISDIR',
  'EROFS',
  'EBUSY',
  'EFBIG',
  'ENOMEM',
  'ENOTSUP',
  'ENOMEDIUM',
  'ECANCELED',
  'ETIMEDOUT',
  'ESHUTDOWN',
  'ECONNRESET',
  'EILSEQ',
  'EBADMSG',
] satisfies Errno[])

/** The errno of anything thrown: that of a {@link BlockError} or of a Node system error, else EIO. */
export function errnoOf(error: unknown): Errno {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
  return typeof code === 'string' && known.has(code) ? (code as Errno) : 'EIO'
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Makes a {@link BlockError} of anything thrown, with `doing` in front of its message. */
export function blockError(error: unknown, doing: string): BlockError {
  return new BlockError(errnoOf(error), `${doing}: ${messageOf(error)}`, { cause: error })
}
