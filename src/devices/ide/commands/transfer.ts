/** READ, WRITE and VERIFY in all their forms [ATA8-ACS 7.22 to 7.38, 7.66 to 7.75]. */
import { bytesVec } from '../../../block/iovec.ts'
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { locate } from '../locate.ts'

const move =
  (ext: boolean, fua = false) =>
  (ata: AtaDisk) => {
    ata.power.use()
    ata.transfer(ext, { fua })
  }

const moveMultiple =
  (ext: boolean, fua = false) =>
  (ata: AtaDisk) => {
    ata.power.use()
    if (ata.settings.multiple === 0) ata.abort()
    else ata.transfer(ext, { block: ata.settings.multiple, fua })
  }

/** Bytes that VERIFY reads before the guest has its turn again. */
const VERIFY_STEP = 1 << 20

const verify = (ext: boolean) => (ata: AtaDisk) => {
  ata.power.use()
  const extent = ata.extent(ext)
  if (extent === undefined) return
  const { lba, count, form } = extent
  const size = ata.sectorSize
  const end = (lba + count) * size
  const scratch = new Uint8Array(Math.min(count * size, VERIFY_STEP))
  const step = (at: number) => {
    const length = Math.min(end - at, scratch.length)
    const read = (from: number, to: number) => ata.disk.read(from, bytesVec(scratch.subarray(from - at, to - at)))
    ata.work(
      () => read(at, at + length),
      () => {
        if (at + length >= end) ata.complete()
        else ata.later(() => step(at + length))
      },
      () =>
        locate(
          { start: at, end: at + length, unit: size },
          read,
          (begin, done, failed) => ata.work(begin, done, failed),
          (bad) => ata.failUnreadable(bad / size, form),
        ),
    )
  }
  step(lba * size)
}

export const transferCommands: CommandTable = [
  [0x20, { name: 'READ SECTOR(S)', protocol: 'pio-in', run: move(false) }],
  [0x21, { name: 'READ SECTOR(S) (without retry)', protocol: 'pio-in', run: move(false) }],
  [0x24, { name: 'READ SECTOR(S) EXT', protocol: 'pio-in', run: move(true) }],
  [0x25, { name: 'READ DMA EXT', protocol: 'dma-in', run: move(true) }],
  [0x29, { name: 'READ MULTIPLE EXT', protocol: 'pio-in', run: moveMultiple(true) }],
  [0x30, { name: 'WRITE SECTOR(S)', protocol: 'pio-out', run: move(false) }],
  [0x31, { name: 'WRITE SECTOR(S) (without retry)', protocol: 'pio-out', run: move(false) }],
  [0x34, { name: 'WRITE SECTOR(S) EXT', protocol: 'pio-out', run: move(true) }],
  [0x35, { name: 'WRITE DMA EXT', protocol: 'dma-out', run: move(true) }],
  [0x39, { name: 'WRITE MULTIPLE EXT', protocol: 'pio-out', run: moveMultiple(true) }],
  [0x3d, { name: 'WRITE DMA FUA EXT', protocol: 'dma-out', run: move(true, true) }],
  [0x40, { name: 'READ VERIFY SECTOR(S)', protocol: 'non-data', run: verify(false) }],
  [0x41, { name: 'READ VERIFY SECTOR(S) (without retry)', protocol: 'non-data', run: verify(false) }],
  [0x42, { name: 'READ VERIFY SECTOR(S) EXT', protocol: 'non-data', run: verify(true) }],
  [0xc4, { name: 'READ MULTIPLE', protocol: 'pio-in', run: moveMultiple(false) }],
  [0xc5, { name: 'WRITE MULTIPLE', protocol: 'pio-out', run: moveMultiple(false) }],
  [0xc8, { name: 'READ DMA', protocol: 'dma-in', run: move(false) }],
  [0xc9, { name: 'READ DMA (without retry)', protocol: 'dma-in', run: move(false) }],
  [0xca, { name: 'WRITE DMA', protocol: 'dma-out', run: move(false) }],
  [0xcb, { name: 'WRITE DMA (without retry)', protocol: 'dma-out', run: move(false) }],
  [0xce, { name: 'WRITE MULTIPLE FUA EXT', protocol: 'pio-out', run: moveMultiple(true, true) }],
]
