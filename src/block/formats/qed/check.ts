/** Checks a QED image that nobody is writing, and repairs it. */

import { type CheckResult, MAX_MESSAGES } from '../../checkresult.ts'
import type { BlockDevice } from '../../device.ts'
import { BlockError } from '../../error.ts'
import { bytesVec } from '../../iovec.ts'
import { readPadded } from '../../mover.ts'
import { FEATURE_NEED_CHECK, fixedBytes, type QedHeader, tableEntries } from './header.ts'

/** What a check found; QED compresses nothing. */
export type QedCheckResult = Omit<CheckResult, 'compressed-clusters'>

const PART = 1 << 20
/** Clusters of one piece of the set of those in use; 64 MiB of pieces cover 512 million clusters. */
const MARKS = 8192
const MOST_MARKS = 65536

/** Checks the image in `file`; with `repair`, entries that cannot be are cleared, and what nothing uses at the end is cut off. */
export async function checkQed(
  name: string,
  file: BlockDevice,
  header: QedHeader,
  repair?: 'leaks' | 'all',
): Promise<QedCheckResult> {
  const { clusterSize, tableSize, l1Offset } = header
  const tableBytes = clusterSize * tableSize
  const entries = tableEntries(header)
  const used = new Marks()
  const end = Math.ceil(file.size / clusterSize)
  const result: QedCheckResult = {
    'image-end-offset': end * clusterSize,
    'total-clusters': Math.ceil(header.size / clusterSize),
    'allocated-clusters': 0,
    'fragmented-clusters': 0,
    corruptions: 0,
    leaks: 0,
    'corruptions-fixed': 0,
    'leaks-fixed': 0,
    'check-errors': 0,
    messages: [],
  }
  const fixes: number[] = []
  const wrong = (at: number, what: string) => {
    result.corruptions++
    if (result.messages.length < MAX_MESSAGES) result.messages.push(`${name}: ${what}`)
    if (repair === 'all') fixes.push(at)
  }
  /** Takes the clusters of a range that must be free, inside the file and properly placed. */
  const take = (offset: number, length: number): string | undefined => {
    if (!Number.isSafeInteger(offset) || offset % clusterSize !== 0)
      return `at ${offset}, no multiple of the cluster size`
    const first = offset / clusterSize
    const count = length / clusterSize
    if (first + count > end) return `at ${offset}, after the end of the file`
    for (let each = 0; each < count; each++) if (used.has(first + each)) return `at ${offset}, which is in use already`
    for (let each = 0; each < count; each++) used.add(first + each)
    return undefined
  }
  take(0, header.headerSize * clusterSize)
  take(l1Offset, tableBytes)
  const spans = Math.min(entries, Math.ceil(header.size / (entries * clusterSize)))
  const tables: number[] = []
  await eachEntry(file, l1Offset, spans, (index, offset) => {
    if (offset === 0) return
    const why = take(offset, tableBytes)
    if (why === undefined) tables.push(offset)
    else wrong(l1Offset + index * 8, `L2 table ${index} is ${why}`)
  })
  let next = -1
  for (const table of tables) {
    await eachEntry(file, table, entries, (index, offset) => {
      if (offset <= 1) return
      const why = take(offset, clusterSize)
      if (why !== undefined) return wrong(table + index * 8, `a data cluster is ${why}`)
      result['allocated-clusters']++
      if (next !== -1 && offset !== next) result['fragmented-clusters']++
      next = offset + clusterSize
    })
  }
  const { last } = used
  result.leaks = end - used.size
  if (repair === undefined) return result
  for (const at of fixes) await file.write(at, bytesVec(new Uint8Array(8)))
  result['corruptions-fixed'] = fixes.length
  result.corruptions -= fixes.length
  if (result.leaks > 0 && last < end) {
    await file.resize(last * clusterSize)
    result['leaks-fixed'] = end - last
    result.leaks -= end - last
  }
  await file.flush()
  if (result.corruptions === 0 && (header.features & FEATURE_NEED_CHECK) !== 0n) {
    header.features &= ~FEATURE_NEED_CHECK
    await file.write(0, bytesVec(fixedBytes(header)))
    await file.flush()
  }
  return result
}

/** A sparse set of clusters, a bit each. EFBIG is thrown where it would take too much memory. */
class Marks {
  readonly #chunks = new Map<number, Uint8Array>()
  size = 0
  /** One more than the last cluster in the set. */
  last = 0

  has(cluster: number): boolean {
    const chunk = this.#chunks.get(Math.floor(cluster / MARKS))
    return chunk !== undefined && (chunk[(cluster % MARKS) >> 3]! & (1 << (cluster % 8))) !== 0
  }

  add(cluster: number): void {
    const key = Math.floor(cluster / MARKS)
    let chunk = this.#chunks.get(key)
    if (chunk === undefined) {
      if (this.#chunks.size >= MOST_MARKS) {
        throw new BlockError('EFBIG', 'Cannot check the image: its clusters lie too far apart to be counted')
      }
      this.#chunks.set(key, (chunk = new Uint8Array(MARKS / 8)))
    }
    const bit = 1 << (cluster % 8)
    const at = (cluster % MARKS) >> 3
    if ((chunk[at]! & bit) !== 0) return
    chunk[at]! |= bit
    this.size++
    this.last = Math.max(this.last, cluster + 1)
  }
}

/** Visits the entries of a table, a part at a time; parts that are holes in the file hold none. */
async function eachEntry(
  file: BlockDevice,
  table: number,
  count: number,
  visit: (index: number, offset: number) => void,
): Promise<void> {
  const bytes = new Uint8Array(Math.min(PART, count * 8))
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < count * 8; at += PART) {
    const length = Math.min(PART, count * 8 - at)
    if (table + at >= file.size) return
    const extent = await file.status(table + at, Math.min(length, file.size - table - at))
    if (extent.kind !== 'data' && extent.length >= Math.min(length, file.size - table - at)) continue
    await readPadded(file, table + at, bytesVec(bytes.subarray(0, length)))
    for (let index = 0; index < length / 8; index++) {
      const offset = view.getUint32(index * 8 + 4, true) * 2 ** 32 + view.getUint32(index * 8, true)
      visit(at / 8 + index, offset)
    }
  }
}
