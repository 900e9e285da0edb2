/** The snapshot table: what each internal snapshot is, and where its L1 table lies. */
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { layout, u16, u32, u64 } from '../../layout.ts'
import { readPadded } from '../../mover.ts'
import { type Header, MAX_L1_BYTES } from './header.ts'

const Fixed = layout('be', {
  l1Offset: u64,
  l1Size: u32,
  idSize: u16,
  nameSize: u16,
  dateSec: u32,
  dateNsec: u32,
  vmClockNsec: u64,
  vmStateSize: u32,
  extraSize: u32,
})
/** The table may take at most this much. */
const MAX_TABLE = 16 << 20
const MAX_EXTRA = 1024

/** An internal snapshot. */
export interface Snapshot {
  l1Offset: number
  l1Size: number
  id: string
  name: string
  /** When it was taken: seconds since 1970, and nanoseconds. */
  dateSec: number
  dateNsec: number
  /** How long the guest had run, nanoseconds. */
  vmClockNsec: number
  /** Bytes of the saved machine; 0 without. */
  vmStateSize: number
  /** Size of the disk when it was taken, bytes; undefined if the image does not say. */
  diskSize: number | undefined
  /** Extra data after what is known, kept. */
  extra: Uint8Array
}

const text = new TextDecoder()
const utf8 = new TextEncoder()

/** Reads the snapshot table, and how many bytes it takes. EINVAL if it is damaged. */
export async function readSnapshots(
  name: string,
  file: BlockDevice,
  header: Header,
): Promise<{ snapshots: Snapshot[]; length: number }> {
  const snapshots: Snapshot[] = []
  const bad = (why: string) => new BlockError('EINVAL', `Cannot read the snapshots of ${name}: ${why}`)
  let at = header.snapshotsOffset
  const take = async (length: number) => {
    if (at + length - header.snapshotsOffset > MAX_TABLE) throw bad('their table is too long')
    if (at + length > file.size) throw bad('their table passes the end of the file')
    const bytes = new Uint8Array(length)
    await readPadded(file, at, bytesVec(bytes))
    at += length
    return bytes
  }
  for (let index = 0; index < header.snapshotCount; index++) {
    at = Math.ceil(at / 8) * 8
    const fixed = Fixed.read(await take(Fixed.size))
    if (fixed.extraSize > MAX_EXTRA) throw bad(`snapshot ${index} has ${fixed.extraSize} bytes of extra data, too many`)
    if (fixed.l1Size * 8 > MAX_L1_BYTES)
      throw bad(`the L1 table of snapshot ${index} has ${fixed.l1Size} entries, too many`)
    if (!Number.isSafeInteger(fixed.l1Offset) || fixed.l1Offset % 2 ** header.clusterBits !== 0) {
      throw bad(`the L1 table of snapshot ${index} is at ${fixed.l1Offset}, no multiple of the cluster size`)
    }
    const extra = await take(fixed.extraSize)
    const view = new DataView(extra.buffer)
    const large = extra.length >= 8 ? view.getUint32(0) * 2 ** 32 + view.getUint32(4) : 0
    const diskSize = extra.length >= 16 ? view.getUint32(8) * 2 ** 32 + view.getUint32(12) : undefined
    const id = text.decode(await take(fixed.idSize))
    const title = text.decode(await take(fixed.nameSize))
    snapshots.push({
      l1Offset: fixed.l1Offset,
      l1Size: fixed.l1Size,
      id,
      name: title,
      dateSec: fixed.dateSec,
      dateNsec: fixed.dateNsec,
      vmClockNsec: fixed.vmClockNsec,
      vmStateSize: large !== 0 ? large : fixed.vmStateSize,
      diskSize,
      extra: extra.slice(Math.min(16, extra.length)),
    })
  }
  return { snapshots, length: at - header.snapshotsOffset }
}

/** The bytes of a snapshot table. */
export function snapshotTable(snapshots: readonly Snapshot[]): Uint8Array {
  const entries = snapshots.map((snapshot) => {
    const id = utf8.encode(snapshot.id)
    const title = utf8.encode(snapshot.name)
    const known = snapshot.diskSize === undefined ? 8 : 16
    const extraSize = known + (known === 16 ? snapshot.extra.length : 0)
    const used = Fixed.size + extraSize + id.length + title.length
    const bytes = new Uint8Array(Math.ceil(used / 8) * 8)
    const { vmStateSize, diskSize } = snapshot
    Fixed.write(bytes, {
      ...snapshot,
      vmStateSize: vmStateSize > 0xffffffff ? 0 : vmStateSize,
      idSize: id.length,
      nameSize: title.length,
      extraSize,
    })
    const view = new DataView(bytes.buffer, Fixed.size)
    view.setBigUint64(0, BigInt(vmStateSize))
    if (diskSize !== undefined) {
      view.setBigUint64(8, BigInt(diskSize))
      bytes.set(snapshot.extra, Fixed.size + 16)
    }
    bytes.set(id, Fixed.size + extraSize)
    bytes.set(title, Fixed.size + extraSize + id.length)
    return bytes
  })
  const table = new Uint8Array(entries.reduce((sum, entry) => sum + entry.length, 0))
  let at = 0
  for (const entry of entries) {
    table.set(entry, at)
    at += entry.length
  }
  return table
}
