/** MODE SENSE and MODE SELECT, and the pages behind them (SPC-4 6.11 to 6.14, 7.5). */
import { after, type Now } from '../../../block/now.ts'
import { type CommandSpec, u16, u24, u32, u64 } from '../command.ts'
import {
  CheckCondition,
  INVALID_FIELD_IN_PARAMETER_LIST,
  invalidCdb,
  invalidParameter,
  MODE_PARAMETERS_CHANGED,
  PARAMETER_LIST_LENGTH_ERROR,
} from '../sense.ts'
import type { Task } from '../task.ts'

/** A mode page of a unit: its values after the page header. */
export interface ModePageSpec {
  readonly code: number
  /** A page of the sub_page format has one; 0 is the page_0 format. */
  readonly subpage?: number
  readonly defaults: Uint8Array
  /** Bits that MODE SELECT may change; default none. */
  readonly changeable?: Uint8Array
  /** Brings `values` up to what the unit really does, before they are shown. */
  readonly refresh?: (values: Uint8Array) => void
  /** Throws for values that make no sense together; `at` is the place of their first byte in the parameter list. */
  readonly check?: (values: Uint8Array, at: number) => void
  /** Makes the unit do what the new values say. */
  readonly apply?: (values: Uint8Array) => Now<void>
}

interface ModePage {
  readonly spec: ModePageSpec
  readonly key: number
  current: Uint8Array
  saved: Uint8Array
}

/** What a unit says in the mode parameter header and block descriptor. */
export interface ModeUnit {
  /** MEDIUM TYPE field. */
  readonly mediumType: number
  /** DEVICE-SPECIFIC PARAMETER field (SBC-3 6.4.1). */
  readonly deviceSpecific: number
  /** Blocks and their length. */
  readonly geometry: { readonly blocks: number; readonly block: number }
  /** Whether MODE SENSE shows them in a block descriptor. */
  readonly describesBlocks: boolean
  attention(condition: typeof MODE_PARAMETERS_CHANGED, except?: number): void
}

const ALL_PAGES = 0x3f
const ALL_SUBPAGES = 0xff
/** Longest parameter list taken, bytes: every page of every unit, several times. */
const LIST_LIMIT = 4096

const keyOf = (code: number, subpage: number): number => (code << 8) | subpage

/** The mode pages of a unit. */
export class ModePages {
  readonly #pages: readonly ModePage[]
  readonly #unit: ModeUnit
  /** Called when MODE SELECT saved pages, so that an owner can keep {@link saved} for the next time. */
  onSaved: () => void = () => {}

  constructor(unit: ModeUnit, specs: readonly ModePageSpec[]) {
    this.#unit = unit
    this.#pages = specs
      .map((spec) => ({
        spec,
        key: keyOf(spec.code, spec.subpage ?? 0),
        current: spec.defaults.slice(),
        saved: spec.defaults.slice(),
      }))
      .sort((a, b) => a.key - b.key)
  }

  /** The current values of a page that is there; changing them is for the unit itself. */
  values(code: number, subpage = 0): Uint8Array {
    return this.#pages.find((page) => page.key === keyOf(code, subpage))!.current
  }

  /** Goes back to the saved values, as after a reset. */
  reset(): Now<void> {
    return this.#applyAll((page) => page.saved)
  }

  /** The saved values of all pages, one after the other. */
  get saved(): Uint8Array {
    return join(this.#pages.map((page) => page.saved))
  }

  /** The current values of all pages, one after the other. */
  get current(): Uint8Array {
    return join(this.#pages.map((page) => page.current))
  }

  /** Takes up saved and current values that were read from a unit with the same pages; throws RangeError for others. */
  restore(saved: Uint8Array, current: Uint8Array): Now<void> {
    const length = this.#pages.reduce((sum, page) => sum + page.current.length, 0)
    if (saved.length !== length || current.length !== length) throw new RangeError(`mode pages have ${length} bytes`)
    let at = 0
    const next = new Map<ModePage, Uint8Array>()
    for (const page of this.#pages) {
      const end = at + page.current.length
      page.saved = saved.slice(at, end)
      next.set(page, current.slice(at, end))
      at = end
    }
    return this.#applyAll((page) => next.get(page)!)
  }

  /** MODE SENSE and MODE SELECT, 6 and 10. */
  commands(): CommandSpec[] {
    return [
      {
        name: 'MODE SELECT(6)',
        opcode: 0x15,
        usage: '15 11 00 00 ff 00',
        access: 'own',
        run: (task) => this.#select(task, 4, task.cdb[4]!),
      },
      {
        name: 'MODE SENSE(6)',
        opcode: 0x1a,
        usage: '1a 08 ff ff ff 00',
        access: 'own',
        run: (task) => this.#sense(task, 4, task.cdb[4]!),
      },
      {
        name: 'MODE SELECT(10)',
        opcode: 0x55,
        usage: '55 11 00 00 00 00 00 ff ff 00',
        access: 'own',
        run: (task) => this.#select(task, 8, u16(task.cdb, 7)),
      },
      {
        name: 'MODE SENSE(10)',
        opcode: 0x5a,
        usage: '5a 18 ff ff 00 00 00 ff ff 00',
        access: 'own',
        run: (task) => this.#sense(task, 8, u16(task.cdb, 7)),
      },
    ]
  }

  #sense(task: Task, header: 4 | 8, allocation: number): void {
    const { cdb } = task
    const control = cdb[2]! >>> 6
    const pages = this.#asked(cdb[2]! & 0x3f, cdb[3]!)
    const long = header === 8 && (cdb[1]! & 0x10) !== 0
    const descriptor = (cdb[1]! & 0x08) !== 0 ? new Uint8Array(0) : this.#descriptor(long)
    const bytes = join([new Uint8Array(header), descriptor, ...pages.map((page) => withHeader(page, control))])
    const view = new DataView(bytes.buffer)
    const { mediumType, deviceSpecific } = this.#unit
    if (header === 4) {
      if (bytes.length > 256) throw invalidCdb(2, 5)
      bytes.set([bytes.length - 1, mediumType, deviceSpecific, descriptor.length])
    } else {
      view.setUint16(0, bytes.length - 2)
      bytes.set([mediumType, deviceSpecific, descriptor.length === 16 ? 1 : 0], 2)
      view.setUint16(6, descriptor.length)
    }
    task.reply(bytes, allocation)
  }

  #asked(code: number, subpage: number): readonly ModePage[] {
    const all = code === ALL_PAGES
    if (all && subpage !== 0 && subpage !== ALL_SUBPAGES) throw invalidCdb(3, 7)
    const pages = this.#pages.filter(
      ({ key }) => (all || key >>> 8 === code) && (subpage === ALL_SUBPAGES || (key & 0xff) === subpage),
    )
    if (pages.length === 0) throw invalidCdb(this.#pages.some(({ key }) => key >>> 8 === code) ? 3 : 2, subpage ? 7 : 5)
    return pages
  }

  // SBC-3 6.4.2: the short and the long LBA mode parameter block descriptor
  #descriptor(long: boolean): Uint8Array {
    const { geometry, describesBlocks } = this.#unit
    if (!describesBlocks) return new Uint8Array(0)
    const bytes = new Uint8Array(long ? 16 : 8)
    const view = new DataView(bytes.buffer)
    if (long) {
      view.setBigUint64(0, BigInt(geometry.blocks))
      view.setUint32(12, geometry.block)
    } else {
      view.setUint32(0, Math.min(geometry.blocks, 0xffffffff))
      view.setUint32(4, geometry.block)
    }
    return bytes
  }

  #select(task: Task, header: 4 | 8, length: number): void {
    const { cdb } = task
    // PF 0 means pages in a format of SCSI-1's vendors
    if (length > 0 && (cdb[1]! & 0x10) === 0) throw invalidCdb(1, 4)
    if (length > LIST_LIMIT) throw invalidCdb(header === 4 ? 4 : 7, 7)
    task.receive(length, (list) => {
      if (list.length === 0) return
      const changes = this.#parse(list, header)
      const changed = [...changes].some(([page, values]) => values.some((value, i) => value !== page.current[i]))
      return after(
        this.#applyAll((page) => changes.get(page)),
        () => {
          if ((cdb[1]! & 1) !== 0) {
            for (const page of this.#pages) page.saved = page.current.slice()
            this.onSaved()
          }
          if (changed) this.#unit.attention(MODE_PARAMETERS_CHANGED, task.command.initiator)
        },
      )
    })
  }

  /** All of the list is checked before anything of it takes effect. */
  #parse(list: Uint8Array, header: 4 | 8): Map<ModePage, Uint8Array> {
    if (list.length < header) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    const mediumAt = header === 4 ? 1 : 2
    if (list[mediumAt] !== this.#unit.mediumType && list[mediumAt] !== 0) throw invalidParameter(mediumAt)
    const descriptors = header === 4 ? list[3]! : u16(list, 6)
    const long = header === 8 && (list[4]! & 1) !== 0
    if (header + descriptors > list.length) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    if (descriptors !== 0) {
      if (descriptors !== (long ? 16 : 8)) throw invalidParameter(header === 4 ? 3 : 6)
      this.#checkDescriptor(list, header, long)
    }
    const changes = new Map<ModePage, Uint8Array>()
    for (let at = header + descriptors; at < list.length; ) at = this.#parsePage(list, at, changes)
    return changes
  }

  // A block length or a capacity other than the medium's would need a FORMAT UNIT that can change it
  #checkDescriptor(list: Uint8Array, at: number, long: boolean): void {
    const { geometry } = this.#unit
    const blocks = long ? u64(list, at) : u32(list, at)
    const block = long ? u32(list, at + 12) : u24(list, at + 5)
    const whole = long ? geometry.blocks : Math.min(geometry.blocks, 0xffffffff)
    // SCSI-2 8.3.3: the first byte was the density code, and a count that does not fit 24 bits has no right value
    const old = !long && (blocks & 0xffffff) === (Math.min(geometry.blocks, 0xffffff) & 0xffffff)
    if (blocks !== 0 && blocks !== whole && !old) throw invalidParameter(at)
    if (block !== geometry.block) throw invalidParameter(long ? at + 12 : at + 5)
  }

  #parsePage(list: Uint8Array, at: number, changes: Map<ModePage, Uint8Array>): number {
    const sub = (list[at]! & 0x40) !== 0
    const start = at + (sub ? 4 : 2)
    if (start > list.length) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    const key = keyOf(list[at]! & 0x3f, sub ? list[at + 1]! : 0)
    const page = this.#pages.find((other) => other.key === key && (other.spec.subpage !== undefined) === sub)
    if (page === undefined) throw invalidParameter(at, 5)
    const length = sub ? u16(list, at + 2) : list[at + 1]!
    if (length !== page.current.length) throw invalidParameter(at + (sub ? 2 : 1), 7)
    if (start + length > list.length) throw new CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    const values = list.slice(start, start + length)
    page.spec.refresh?.(page.current)
    for (let i = 0; i < length; i++) {
      const wrong = (values[i]! ^ page.current[i]!) & ~(page.spec.changeable?.[i] ?? 0)
      if (wrong !== 0) throw invalidParameter(start + i, 31 - Math.clz32(wrong))
    }
    page.spec.check?.(values, start)
    if (changes.has(page))
      throw new CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST, { field: { cdb: false, byte: at } })
    changes.set(page, values)
    return start + length
  }

  #applyAll(next: (page: ModePage) => Uint8Array | undefined): Now<void> {
    let done: Now<void> | undefined
    for (const page of this.#pages) {
      const values = next(page)
      if (values === undefined) continue
      page.current = values.slice()
      const { apply } = page.spec
      if (apply !== undefined) done = after(done, () => apply(page.current))
    }
    return done
  }
}

function withHeader({ spec, current, saved }: ModePage, control: number): Uint8Array {
  spec.refresh?.(current)
  // SPC-4 table 141: page control
  const values = [current, spec.changeable ?? new Uint8Array(current.length), spec.defaults, saved][control]!
  const { code, subpage } = spec
  // PS: every page can be saved
  const header =
    subpage === undefined
      ? Uint8Array.of(0x80 | code, values.length)
      : Uint8Array.of(0xc0 | code, subpage, values.length >>> 8, values.length & 0xff)
  return join([header, values])
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
