/** Why something failed, in the words of the C library and of qemu-img, which people and scripts know. */
import { BlockError, type Errno, errnoOf, messageOf } from '../../block/error.ts'

const WORDS: Readonly<Record<Errno, string>> = {
  EIO: 'Input/output error',
  ENOSPC: 'No space left on device',
  EDQUOT: 'Disk quota exceeded',
  EINVAL: 'Invalid argument',
  EACCES: 'Permission denied',
  EPERM: 'Operation not permitted',
  ENOENT: 'No such file or directory',
  EEXIST: 'File exists',
  EISDIR: 'Is a directory',
  EROFS: 'Read-only file system',
  EBUSY: 'Device or resource busy',
  EFBIG: 'File too large',
  ENOMEM: 'Cannot allocate memory',
  ENOTSUP: 'Operation not supported',
  ENOMEDIUM: 'No medium found',
  ECANCELED: 'Operation canceled',
  ETIMEDOUT: 'Connection timed out',
  ESHUTDOWN: 'Cannot send after transport endpoint shutdown',
  ECONNRESET: 'Connection reset by peer',
  EILSEQ: 'Invalid or incomplete multibyte or wide character',
  EBADMSG: 'Bad message',
}

/** What strerror(3) says of an error. */
export function strerror(error: unknown): string {
  return WORDS[errnoOf(error)]
}

/** A message that is complete as it is: no layer above puts its own words in its place. */
export class Reason extends BlockError {}

/** Why the file `name` could not be opened. */
export function fileReason(error: unknown, name: string, readOnly: boolean): string {
  if (error instanceof Reason) return error.message
  const code = errnoOf(error)
  if (code === 'EBUSY') {
    return `Failed to get ${readOnly ? 'shared "write"' : '"write"'} lock\nIs another process using the image [${name}]?`
  }
  if (code === 'EISDIR' || (code === 'EINVAL' && /neither a file nor/.test(messageOf(error)))) {
    return `'file' driver requires '${name}' to be a regular file`
  }
  if (code === 'EINVAL' && /no O_DIRECT/.test(messageOf(error))) {
    return `Could not open '${name}': filesystem does not support O_DIRECT`
  }
  return `Could not open '${name}': ${WORDS[code]}`
}

/** Why a format could not open an image: its own words, without the name that is said before them anyway. */
export function formatReason(error: unknown, name: string, format: string): string {
  if (error instanceof Reason) return error.message
  const message = messageOf(error)
  if (/: it is no \w+ image/.test(message)) return `Image is not in ${format} format`
  if (/it is corrupt; repair it/.test(message)) return `${format}: Image is corrupt; cannot be opened read/write`
  const prefix = `Cannot open ${name}: `
  return message.startsWith(prefix) ? message.slice(prefix.length) : message
}
