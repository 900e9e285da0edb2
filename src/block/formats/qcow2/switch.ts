/** Shows new metadata by one write of the header, or goes back to the old. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { fixedBytes, type Header } from './header.ts'

/** Nobody knows whether the medium has the old header or the new: the image must not be written until it is opened again. */
export class HeaderLost extends BlockError {
  constructor(name: string, cause: unknown) {
    super('EIO', `Cannot write the header of ${name}: it may be old or new now; open the image again`, { cause })
  }
}

/** Makes `changes` to the header, durably. When that fails the header is as before, in memory and on the medium. */
export async function switchHeader(
  name: string,
  file: BlockDevice,
  header: Header,
  changes: Partial<Header>,
): Promise<void> {
  const before = { ...header }
  Object.assign(header, changes)
  try {
    await file.write(0, bytesVec(fixedBytes(header)))
    await file.flush()
  } catch (error) {
    Object.assign(header, before)
    try {
      await file.write(0, bytesVec(fixedBytes(header)))
      await file.flush()
    } catch {
      throw new HeaderLost(name, error)
    }
    throw error
  }
}
