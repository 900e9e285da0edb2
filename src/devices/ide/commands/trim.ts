/** DATA SET MANAGEMENT: the host says which sectors it needs no more [ATA8-ACS 7.5; ACS-3 7.5]. */
import { isLater, type Now, repeat } from '../../../block/now.ts'
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { ERROR_IDNF } from '../registers.ts'

/** Blocks of 512 bytes that one command may bring, word 105: 64 ranges in each. */
export const TRIM_BLOCKS = 64
const TRIM = 1 << 0
const ENTRY = 8

interface Range {
  lba: number
  count: number
}

/** The ranges of the list, adjacent ones made one; undefined if one passes `sectors`. */
function parseRanges(data: Uint8Array, sectors: number): Range[] | undefined {
  const view = new DataView(data.buffer, data.byteOffset, data.length)
  const ranges: Range[] = []
  for (let at = 0; at < data.length; at += ENTRY) {
    const count = view.getUint16(at + 6, true)
    if (count === 0) continue
    const lba = view.getUint32(at, true) + view.getUint16(at + 4, true) * 2 ** 32
    if (lba + count > sectors) return undefined
    const last = ranges[ranges.length - 1]
    if (last !== undefined && last.lba + last.count === lba) last.count += count
    else ranges.push({ lba, count })
  }
  return ranges
}

function trim(ata: AtaDisk, ranges: readonly Range[]): Now<void> {
  const size = ata.sectorSize
  let next = 0
  return repeat(() => {
    const range = ranges[next]
    if (range === undefined) return false
    next++
    const at = range.lba * size
    const length = range.count * size
    const done = ata.trimsToZero ? ata.disk.zero(at, length, { unmap: true }) : ata.disk.discard(at, length)
    return isLater(done) ? done.then(() => true) : true
  })
}

export const trimCommands: CommandTable = [
  [
    0x06,
    {
      name: 'DATA SET MANAGEMENT',
      protocol: 'dma-out',
      offered: (ata) => ata.trims,
      run: (ata) => {
        const blocks = ata.count
        if ((ata.features & 0xff) !== TRIM || blocks === 0 || blocks > TRIM_BLOCKS) ata.abort()
        else ata.receive(blocks * 512)
      },
      received: (ata, data) => {
        const ranges = parseRanges(data, ata.sectors)
        if (ranges === undefined) ata.fail(ERROR_IDNF)
        else ata.completeAfter(() => trim(ata, ranges))
      },
    },
  ],
]
