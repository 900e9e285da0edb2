/** Shows new metadata by one write of the header, or goes back to the old. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { fixedBytes, type Header, headerCluster, SECTOR } from './header.ts'

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

/**
 * Makes `changes` to what the header names, durably; a power cut leaves the old names or the new. When that fails the header is as
 * before, in memory and on the medium.
 */
export async function switchNames(
  name: string,
  file: BlockDevice,
  header: Header,
  changes: Partial<Header>,
): Promise<void> {
  const before = { ...header }
  const old = new Uint8Array(Math.min(SECTOR, file.size))
  await file.read(0, bytesVec(old))
  let switching = false
  try {
    Object.assign(header, changes)
    const { cluster, end } = headerCluster(name, header)
    const { backingOffset: at, backingSize: length } = header
    if (at + length > SECTOR) {
      await file.write(at, bytesVec(cluster.subarray(at, at + length)))
      await file.flush()
    }
    switching = true
    await file.write(0, bytesVec(cluster.subarray(0, Math.max(end, SECTOR))))
    await file.flush()
  } catch (error) {
    Object.assign(header, before)
    if (!switching) throw error
    try {
      await file.write(0, bytesVec(old))
      await file.flush()
    } catch {
      throw new HeaderLost(name, error)
    }
    throw error
  }
}
