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

export const transferCommands: CommandTable = {
  32: { name: 'READ SECTOR(S)', protocol: 'pio-in', run: move(false) },
  33: { name: 'READ SECTOR(S) (without retry)', protocol: 'pio-in', run: move(false) },
  36: { name: 'READ SECTOR(S) EXT', protocol: 'pio-in', run: move(true) },
  37: { name: 'READ DMA EXT', protocol: 'dma-in', run: move(true) },
  41: { name: 'READ MULTIPLE EXT', protocol: 'pio-in', run: moveMultiple(true) },
  48: { name: 'WRITE SECTOR(S)', protocol: 'pio-out', run: move(false) },
  49: { name: 'WRITE SECTOR(S) (without retry)', protocol: 'pio-out', run: move(false) },
  52: { name: 'WRITE SECTOR(S) EXT', protocol: 'pio-out', run: move(true) },
  53: { name: 'WRITE DMA EXT', protocol: 'dma-out', run: move(true) },
  57: { name: 'WRITE MULTIPLE EXT', protocol: 'pio-out', run: moveMultiple(true) },
  61: { name: 'WRITE DMA FUA EXT', protocol: 'dma-out', run: move(true, true) },
  64: { name: 'READ VERIFY SECTOR(S)', protocol: 'non-data', run: verify(false) },
  65: { name: 'READ VERIFY SECTOR(S) (without retry)', protocol: 'non-data', run: verify(false) },
  66: { name: 'READ VERIFY SECTOR(S) EXT', protocol: 'non-data', run: verify(true) },
  196: { name: 'READ MULTIPLE', protocol: 'pio-in', run: moveMultiple(false) },
  197: { name: 'WRITE MULTIPLE', protocol: 'pio-out', run: moveMultiple(false) },
  200: { name: 'READ DMA', protocol: 'dma-in', run: move(false) },
  201: { name: 'READ DMA (without retry)', protocol: 'dma-in', run: move(false) },
  202: { name: 'WRITE DMA', protocol: 'dma-out', run: move(false) },
  203: { name: 'WRITE DMA (without retry)', protocol: 'dma-out', run: move(false) },
  206: { name: 'WRITE MULTIPLE FUA EXT', protocol: 'pio-out', run: moveMultiple(true, true) },
}
