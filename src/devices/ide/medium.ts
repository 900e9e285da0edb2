/** The sectors of a command between the medium and the host: by PIO through the drive's buffer, by DMA straight into guest memory. */
import { bytesVec, type IoVec } from '../../block/iovec.ts'
import { isLater, type Now } from '../../block/now.ts'
import type { Saved } from '../machine.ts'
import { type Form, putAddress } from './address.ts'
import type { AtaDisk } from './ata.ts'
import { locate } from './locate.ts'
import { BUFFER_LIMIT } from './pio.ts'
import { ERROR_ABRT, ERROR_UNC } from './registers.ts'
import { takeBoolean, takeBytes, takeFields, takeNumber } from './saved.ts'

interface Transfer {
  /** First byte on the medium. */
  readonly at: number
  /** Bytes in all. */
  readonly length: number
  /** Bytes that passed, up to what the buffer holds. */
  done: number
  /** Bytes of a DRQ block. */
  readonly block: number
  readonly fua: boolean
  readonly form: Form
  /** Bytes from `at` to the sector that cannot be read, once it is known; -1 before. */
  bad: number
  /** Bytes of a sector that DMA brought only a part of. */
  rest: Uint8Array<ArrayBuffer>
}

const FORMS: readonly Form[] = ['chs', 'lba28', 'lba48']
const NOTHING = new Uint8Array(0)
const FUA = { fua: true } as const

export class Medium {
  readonly #ata: AtaDisk
  #transfer: Transfer | undefined

  constructor(ata: AtaDisk) {
    this.#ata = ata
  }

  /** Whether the command under way moves sectors. */
  get moves(): boolean {
    return this.#transfer !== undefined
  }

  /** Forgets the sectors of the last command. */
  drop(): void {
    this.#transfer = undefined
  }

  /** Begins to move sectors, `block` of them in a DRQ block. */
  begin(extent: { lba: number; count: number; form: Form }, { block = 1, fua = false }): void {
    const ata = this.#ata
    const size = ata.sectorSize
    const length = extent.count * size
    this.#transfer = {
      at: extent.lba * size,
      length,
      done: 0,
      block: block * size,
      fua,
      form: extent.form,
      bad: -1,
      rest: NOTHING,
    }
    if (ata.dma) ata.request(length)
    else if (ata.writes) ata.ask(Math.min(length, this.#window()), block * size, true)
    else this.#fill()
  }

  // PIO

  /** Largest part of a transfer in the buffer: whole blocks. */
  #window(): number {
    const block = this.#transfer!.block
    return BUFFER_LIMIT - (BUFFER_LIMIT % block)
  }

  #fill(): void {
    const ata = this.#ata
    const transfer = this.#transfer!
    const length = Math.min(transfer.length - transfer.done, this.#window())
    const buffer = ata.room(length)
    const from = transfer.at + transfer.done
    const read = (start: number, end: number) => ata.disk.read(from + start, bytesVec(buffer.subarray(start, end)))
    ata.busy()
    ata.doing = 'fill'
    ata.work(
      () => read(0, length),
      () => ata.present(length, transfer.block),
      () =>
        this.#locate(length, read, (bad) => {
          transfer.bad = transfer.done + bad
          const good = bad - (bad % transfer.block)
          if (good > 0) ata.present(good, transfer.block)
          else this.#unreadable()
        }),
    )
  }

  /** The host took `length` bytes. */
  taken(length: number): void {
    const transfer = this.#transfer!
    transfer.done += length
    if (transfer.bad >= 0) this.#unreadable()
    else if (transfer.done < transfer.length) this.#fill()
    else {
      this.#atEnd(transfer)
      this.#ata.completeQuietly()
    }
  }

  /** Writes the `length` bytes that the host gave. */
  store(length: number): void {
    const ata = this.#ata
    const transfer = this.#transfer!
    const from = transfer.at + transfer.done
    const { buffer } = ata
    const options = transfer.fua ? FUA : undefined
    const write = (start: number, end: number) =>
      ata.disk.write(from + start, bytesVec(buffer.subarray(start, end)), options)
    ata.doing = 'store'
    ata.work(
      () => write(0, length),
      () => {
        ata.smart.written(from, length)
        transfer.done += length
        if (transfer.done < transfer.length) {
          ata.ask(Math.min(transfer.length - transfer.done, this.#window()), transfer.block, false)
        } else this.ended()
      },
      () => this.#locate(length, write, (bad) => this.#unwritable(transfer.done + bad)),
    )
  }

  // DMA. What is here at once, as most is, costs no closure

  /** Moves what `memory` holds, or is to hold. */
  exchange(memory: IoVec): void {
    const transfer = this.#transfer!
    if (!this.#ata.writes) this.#read(transfer, memory)
    else if (transfer.rest.length > 0 || memory.byteLength % this.#ata.sectorSize > 0) this.#gather(transfer, memory)
    else this.#write(transfer, memory, memory, NOTHING)
  }

  #read(transfer: Transfer, memory: IoVec): void {
    let read: Now<void>
    try {
      read = this.#ata.disk.read(transfer.at + transfer.done, memory)
    } catch {
      this.#findUnreadable(transfer, memory)
      return
    }
    if (!isLater(read)) {
      this.#exchanged(transfer, memory, memory.byteLength)
      return
    }
    const later = read
    this.#ata.work(
      () => later,
      () => this.#exchanged(transfer, memory, memory.byteLength),
      () => this.#findUnreadable(transfer, memory),
    )
  }

  #exchanged(transfer: Transfer, memory: IoVec, done: number): void {
    transfer.done += done
    this.#ata.exchanged(memory.byteLength)
  }

  #findUnreadable(transfer: Transfer, memory: IoVec): void {
    const from = transfer.at + transfer.done
    const read = (start: number, end: number) => this.#ata.disk.read(from + start, memory.slice(start, end))
    this.#locate(memory.byteLength, read, (bad) => {
      transfer.bad = transfer.done + bad
      this.#unreadable()
    })
  }

  // A list that ends within a sector leaves the sector unwritten until the rest has come
  #gather(transfer: Transfer, memory: IoVec): void {
    const { rest } = transfer
    const bytes = new Uint8Array(rest.length + memory.byteLength)
    bytes.set(rest)
    memory.gather(bytes.subarray(rest.length))
    const whole = bytes.length - (bytes.length % this.#ata.sectorSize)
    this.#write(transfer, memory, bytesVec(bytes.subarray(0, whole)), bytes.slice(whole))
  }

  /** Writes `from`, the whole sectors that `memory` completed; `rest` is what it has of one more. */
  #write(transfer: Transfer, memory: IoVec, from: IoVec, rest: Uint8Array<ArrayBuffer>): void {
    const { disk } = this.#ata
    const at = transfer.at + transfer.done
    let written: Now<void>
    try {
      written = from.byteLength > 0 ? disk.write(at, from, transfer.fua ? FUA : undefined) : undefined
    } catch {
      this.#findUnwritable(transfer, from)
      return
    }
    if (!isLater(written)) {
      this.#written(transfer, memory, from.byteLength, rest)
      return
    }
    const later = written
    this.#ata.work(
      () => later,
      () => this.#written(transfer, memory, from.byteLength, rest),
      () => this.#findUnwritable(transfer, from),
    )
  }

  #written(transfer: Transfer, memory: IoVec, length: number, rest: Uint8Array<ArrayBuffer>): void {
    this.#ata.smart.written(transfer.at + transfer.done, length)
    transfer.rest = rest
    this.#exchanged(transfer, memory, length)
  }

  #findUnwritable(transfer: Transfer, from: IoVec): void {
    const at = transfer.at + transfer.done
    const options = transfer.fua ? FUA : undefined
    const write = (start: number, end: number) => this.#ata.disk.write(at + start, from.slice(start, end), options)
    this.#locate(from.byteLength, write, (bad) => this.#unwritable(transfer.done + bad))
  }

  // How it ends

  /** All was moved. */
  ended(): void {
    this.#atEnd(this.#transfer!)
    this.#ata.complete()
  }

  // As ATA-3 has it: the registers name the last sector, and none is left
  #atEnd({ at, length, form }: Transfer): void {
    const ata = this.#ata
    putAddress(ata, form, (at + length) / ata.sectorSize - 1, ata.settings.translation)
    ata.count = 0
  }

  #locate(end: number, attempt: (start: number, end: number) => Now<void>, found: (bad: number) => void): void {
    const ata = this.#ata
    locate(
      { start: 0, end, unit: ata.sectorSize },
      attempt,
      (begin, done, failed) => ata.work(begin, done, failed),
      found,
    )
  }

  #unreadable(): void {
    const { at, bad } = this.#transfer!
    this.#ata.smart.unreadable((at + bad) / this.#ata.sectorSize)
    this.#failAt(bad, ERROR_UNC)
  }

  // The standard gives a failed write no bit of its own; ABRT makes hosts repeat it, and then give it up
  #unwritable(bad: number): void {
    this.#failAt(bad, ERROR_ABRT)
  }

  #failAt(offset: number, error: number): void {
    const ata = this.#ata
    const { at, length, form } = this.#transfer!
    const size = ata.sectorSize
    putAddress(ata, form, Math.floor((at + offset) / size), ata.settings.translation)
    if (form !== 'lba48') ata.count = Math.ceil((length - offset) / size) & 0xff
    ata.failMedium(error)
  }

  // Saved states

  save(): Saved {
    const transfer = this.#transfer
    if (transfer === undefined) return null
    return { ...transfer, form: FORMS.indexOf(transfer.form), bad: transfer.bad + 1 }
  }

  restore(state: Saved): void {
    this.#transfer = undefined
    if (state === null) return
    const saved = takeFields(state, 'transfer')
    const size = this.#ata.sectorSize
    const transfer: Transfer = {
      at: takeNumber(saved, 'at'),
      length: takeNumber(saved, 'length', 0x1_0000 * size),
      done: takeNumber(saved, 'done', 0x1_0000 * size),
      block: takeNumber(saved, 'block', BUFFER_LIMIT),
      fua: takeBoolean(saved, 'fua'),
      form: FORMS[takeNumber(saved, 'form', FORMS.length - 1)]!,
      bad: takeNumber(saved, 'bad') - 1,
      rest: takeBytes(saved, 'rest', size),
    }
    if (transfer.block === 0 || transfer.block % size !== 0 || transfer.done > transfer.length) {
      throw new RangeError('the saved transfer has no whole blocks')
    }
    this.#transfer = transfer
  }

  /** Does again what a saved state was in the middle of. */
  resume(doing: 'fill' | 'store'): void {
    if (doing === 'fill') this.#fill()
    else this.store(Math.min(this.#transfer!.length - this.#transfer!.done, this.#window()))
  }
}
