/** READ LOG EXT, WRITE LOG EXT and their DMA forms: General Purpose Logging [ATA8-ACS 7.24, 7.25, 7.68, 7.69]. */
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
import { IDENTIFY_LOG, PAGE } from '../logs.ts'
import { BUFFER_LIMIT } from '../pio.ts'

/** Address, first page and number of pages; undefined if the log does not have them all. */
function pagesOf(ata: AtaDisk): { address: number; first: number; count: number } | undefined {
  const address = ata.lbaLow & 0xff
  const first = ata.lbaMid
  const count = ata.count
  const there = count > 0 && count * PAGE <= BUFFER_LIMIT && first + count <= ata.logs.pages(address, 'general')
  return there ? { address, first, count } : undefined
}

const readLog = (ata: AtaDisk) => {
  const pages = pagesOf(ata)
  if (pages === undefined) {
    ata.abort()
    return
  }
  const length = pages.count * PAGE
  ata.logs.read(pages.address, 'general', pages.first, ata.blank(length))
  ata.send(length)
}

const writeLog = (ata: AtaDisk) => {
  const pages = pagesOf(ata)
  if (pages === undefined || !ata.logs.writable(pages.address)) ata.abort()
  else ata.receive(pages.count * PAGE)
}

const received = (ata: AtaDisk, data: Uint8Array) => {
  if (ata.logs.write(ata.lbaLow & 0xff, ata.lbaMid, data)) ata.complete()
  else ata.abort()
}

const whileSanitizing = (ata: AtaDisk) => (ata.lbaLow & 0xff) === IDENTIFY_LOG

export const logCommands: CommandTable = [
  [0x2f, { name: 'READ LOG EXT', protocol: 'pio-in', whileLocked: true, whileSanitizing, run: readLog }],
  [0x47, { name: 'READ LOG DMA EXT', protocol: 'dma-in', whileLocked: true, whileSanitizing, run: readLog }],
  [0x3f, { name: 'WRITE LOG EXT', protocol: 'pio-out', run: writeLog, received }],
  [0x57, { name: 'WRITE LOG DMA EXT', protocol: 'dma-out', run: writeLog, received }],
]
