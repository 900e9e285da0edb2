/** Injects errors at named moments: `blkdebug`, with the events, states and rules of its configuration file. */
import type { BlockDevice, DebugPoints, Extent, WriteOptions, ZeroOptions } from '../device.ts'
import { BlockError, type Errno } from '../error.ts'
import { Filter } from '../filter.ts'
import type { IoVec } from '../iovec.ts'
import { after, all, type Now } from '../now.ts'

/** Kinds of request, by the names that rules have for them. */
const IO_TYPES = ['read', 'write', 'write-zeroes', 'discard', 'flush', 'block-status'] as const
export type IoType = (typeof IO_TYPES)[number]

/** Fails requests: those that follow `event` while the state is `state`, or, without an event, every one of its kind. */
export interface InjectError {
  /** Event that arms the rule; `none` arms it from the start. Default none. */
  readonly event?: string
  /** State in which the rule holds; 0 is any. */
  readonly state?: number
  /** Errno name or Linux number; default EIO. */
  readonly errno?: Errno | number
  /** First 512-byte sector of requests that fail; default all. */
  readonly sector?: number
  readonly iotype?: IoType
  /** Whether the rule goes after its first failure. */
  readonly once?: boolean
  /** Whether the request fails before it returns, instead of later. */
  readonly immediately?: boolean
}

/** Changes the state when an event comes. */
export interface SetState {
  readonly event: string
  readonly state?: number
  readonly newState: number
}

export interface BlkdebugOptions {
  readonly injectError?: readonly InjectError[]
  readonly setState?: readonly SetState[]
  /** Alignment that requests must have, bytes, a power of two. */
  readonly align?: number
  /** Hears which requests are held and let go. */
  readonly log?: (text: string) => void
}

/** Every moment that has a name. Formats announce theirs; those of requests themselves are announced here. */
export const BLKDEBUG_EVENTS: readonly string[] = [
  ...['l1_update', 'l1_grow_alloc_table', 'l1_grow_write_table', 'l1_grow_activate_table'],
  ...['l2_load', 'l2_update', 'l2_update_compressed', 'l2_alloc_cow_read', 'l2_alloc_write'],
  ...['read_aio', 'read_backing_aio', 'read_compressed', 'write_aio', 'write_compressed'],
  ...['vmstate_load', 'vmstate_save', 'cow_read', 'cow_write', 'reftable_load', 'reftable_grow', 'reftable_update'],
  ...['refblock_load', 'refblock_update', 'refblock_update_part', 'refblock_alloc', 'refblock_alloc_hookup'],
  ...['refblock_alloc_write', 'refblock_alloc_write_blocks', 'refblock_alloc_write_table'],
  ...['refblock_alloc_switch_table', 'cluster_alloc', 'cluster_alloc_bytes', 'cluster_free'],
  ...['flush_to_os', 'flush_to_disk', 'pwritev_rmw_head', 'pwritev_rmw_after_head', 'pwritev_rmw_tail'],
  ...['pwritev_rmw_after_tail', 'preadv', 'pwritev', 'pwritev_zero', 'pwritev_done', 'empty_image_prepare'],
  ...['l1_shrink_write_table', 'l1_shrink_free_l2_clusters', 'cor_write', 'cluster_alloc_space', 'none'],
]

interface Break {
  readonly event: string
  readonly tag: string
}

interface Suspended {
  readonly tag: string
  readonly go: () => void
}

/** What an errno number of Linux is called here. */
const ERRNOS: Readonly<Record<number, Errno>> = {
  1: 'EPERM',
  2: 'ENOENT',
  5: 'EIO',
  11: 'EBUSY',
  12: 'ENOMEM',
  13: 'EACCES',
  16: 'EBUSY',
  17: 'EEXIST',
  22: 'EINVAL',
  27: 'EFBIG',
  28: 'ENOSPC',
  30: 'EROFS',
  74: 'EBADMSG',
  84: 'EILSEQ',
  95: 'ENOTSUP',
  104: 'ECONNRESET',
  108: 'ESHUTDOWN',
  110: 'ETIMEDOUT',
  122: 'EDQUOT',
  123: 'ENOMEDIUM',
  125: 'ECANCELED',
}

/** Kinds of request that a rule without an iotype is for. */
const PLAIN_TYPES: readonly IoType[] = ['read', 'write', 'write-zeroes', 'discard', 'flush']

/** Passes requests through, except those that its rules fail and those that a breakpoint holds. */
export class Blkdebug extends Filter implements DebugPoints {
  readonly name = 'blkdebug'
  readonly #align: number
  readonly #log: (text: string) => void
  #rules: InjectError[]
  readonly #transitions: readonly SetState[]
  /** Rules whose event has come: those of the last event that had any. */
  #active: InjectError[] = []
  #breaks: Break[] = []
  #suspended: Suspended[] = []
  #watching: { readonly tag: string; readonly seen: () => void }[] = []
  #state = 1

  constructor(next: BlockDevice, options: BlkdebugOptions = {}) {
    super(next)
    this.#align = options.align ?? 1
    this.#log = options.log ?? (() => {})
    this.#rules = [...(options.injectError ?? [])]
    this.#transitions = options.setState ?? []
    for (const { event } of [...this.#rules, ...this.#transitions]) checkEvent(event ?? 'none')
    void this.event('none')
  }

  override get debug(): DebugPoints {
    return this
  }

  override get align(): number {
    return this.#align
  }

  /** The state that rules are held against; 1 at first. */
  get state(): number {
    return this.#state
  }

  /** Takes up the state, the rules that are left and the breakpoints of the one that was here before. */
  goOn(before: Blkdebug): void {
    this.#state = before.#state
    this.#rules = before.#rules
    this.#active = before.#active
    this.#breaks = before.#breaks
  }

  event(event: string): Now<void> {
    const state = this.#state
    const rules = this.#rules.filter((rule) => (rule.event ?? 'none') === event && inState(rule.state, state))
    if (rules.length > 0) this.#active = rules
    for (const transition of this.#transitions) {
      if (transition.event === event && inState(transition.state, state)) this.#state = transition.newState
    }
    const held = this.#breaks.filter((point) => point.event === event)
    if (held.length === 0) return
    this.#breaks = this.#breaks.filter((point) => point.event !== event)
    return all(held.map(({ tag }) => this.#suspend(tag)))
  }

  break(event: string, tag: string): void {
    checkEvent(event)
    this.#breaks.push({ event, tag })
  }

  resume(tag: string): boolean {
    const held = this.#suspended.filter((each) => each.tag === tag)
    this.#suspended = this.#suspended.filter((each) => each.tag !== tag)
    for (const { go } of held) {
      this.#log(`blkdebug: Resuming request '${tag}'`)
      go()
    }
    return held.length > 0
  }

  removeBreak(tag: string): boolean {
    const before = this.#breaks.length
    this.#breaks = this.#breaks.filter((point) => point.tag !== tag)
    const found = this.#breaks.length < before
    return this.resume(tag) || found
  }

  suspended(tag: string): Now<void> {
    if (this.#suspended.some((each) => each.tag === tag)) return
    return new Promise((seen) => this.#watching.push({ tag, seen }))
  }

  override read(at: number, into: IoVec): Now<void> {
    return after(this.event('preadv'), () => this.#inject('read', at, into.byteLength, () => this.next.read(at, into)))
  }

  override write(at: number, from: IoVec, options?: WriteOptions): Now<void> {
    return this.#written(this.event('pwritev'), () =>
      this.#inject('write', at, from.byteLength, () => this.next.write(at, from, options)),
    )
  }

  override flush(): Now<void> {
    return after(this.event('flush_to_os'), () =>
      after(this.event('flush_to_disk'), () => this.#inject('flush', 0, 0, () => this.next.flush())),
    )
  }

  override zero(at: number, length: number, options?: ZeroOptions): Now<void> {
    return this.#written(this.event('pwritev_zero'), () =>
      this.#inject('write-zeroes', at, length, () => this.next.zero(at, length, options)),
    )
  }

  override discard(at: number, length: number): Now<void> {
    return this.#inject('discard', at, length, () => this.next.discard(at, length))
  }

  override status(at: number, length: number): Now<Extent> {
    return this.#inject('block-status', at, length, () => this.next.status(at, length))
  }

  override close(): Now<void> {
    this.#breaks = []
    for (const { tag } of this.#suspended) this.resume(tag)
    return this.next.close()
  }

  #written(ready: Now<void>, body: () => Now<void>): Now<void> {
    return after(after(ready, body), () => this.event('pwritev_done'))
  }

  #suspend(tag: string): Promise<void> {
    return new Promise((go) => {
      this.#suspended.push({ tag, go })
      this.#log(`blkdebug: Suspended request '${tag}'`)
      for (const { tag: wanted, seen } of this.#watching) if (wanted === tag) seen()
      this.#watching = this.#watching.filter((each) => each.tag !== tag)
    })
  }

  #inject<T>(kind: IoType, at: number, length: number, body: () => Now<T>): Now<T> {
    const rule = this.#active.find((each) => {
      if (!(each.iotype === undefined ? PLAIN_TYPES.includes(kind) : each.iotype === kind)) return false
      if (each.sector === undefined || each.sector < 0) return true
      const offset = each.sector * 512
      return offset >= at && offset < at + length
    })
    if (rule === undefined) return body()
    if (rule.once) {
      this.#active = this.#active.filter((other) => other !== rule)
      this.#rules = this.#rules.filter((other) => other !== rule)
    }
    if (rule.errno === 0) return body()
    const code = typeof rule.errno === 'number' ? (ERRNOS[rule.errno] ?? 'EIO') : (rule.errno ?? 'EIO')
    const error = new BlockError(code, `blkdebug: injected ${code} into ${kind} of ${length} bytes at ${at}`)
    if (rule.immediately) throw error
    return Promise.resolve().then(() => {
      throw error
    })
  }
}

function checkEvent(event: string): void {
  if (!BLKDEBUG_EVENTS.includes(event)) throw new BlockError('ENOENT', `blkdebug has no event '${event}'`)
}

function inState(wanted: number | undefined, state: number): boolean {
  return wanted === undefined || wanted === 0 || wanted === state
}

/** Reads a blkdebug configuration file: sections [inject-error] and [set-state], `key = "value"` lines, # comments. */
export function parseBlkdebug(text: string, name = 'the blkdebug configuration'): BlkdebugOptions {
  const injectError: InjectError[] = []
  const setState: SetState[] = []
  let section: { kind: string; line: number; values: Map<string, string> } | undefined
  const end = () => {
    if (section?.kind === 'inject-error') injectError.push(injectRule(section.values, name))
    else if (section?.kind === 'set-state') setState.push(stateRule(section.values, name))
  }
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const head = /^\[([\w-]+)(?:\s+"[^"]*")?\]$/.exec(line)
    const pair = /^([\w-]+)\s*=\s*(?:"([^"]*)"|(\S+))$/.exec(line)
    if (head) {
      end()
      section = { kind: head[1]!, line: index, values: new Map() }
      if (!['inject-error', 'set-state'].includes(section.kind))
        throw refuse(name, index, `unknown section '${head[1]}'`)
    } else if (pair && section) section.values.set(pair[1]!, pair[2] ?? pair[3]!)
    else throw refuse(name, index, `cannot parse '${line}'`)
  }
  end()
  return { injectError, setState }
}

function refuse(name: string, index: number, why: string): BlockError {
  return new BlockError('EINVAL', `Could not parse ${name}, line ${index + 1}: ${why}`)
}

function injectRule(values: Map<string, string>, name: string): InjectError {
  const rule: { -readonly [K in keyof InjectError]: InjectError[K] } = {}
  for (const [key, value] of values) {
    if (key === 'event') rule.event = value
    else if (key === 'iotype') rule.iotype = value as IoType
    else if (key === 'state') rule.state = number(value, key, name)
    else if (key === 'errno') rule.errno = number(value, key, name)
    else if (key === 'sector') rule.sector = number(value, key, name)
    else if (key === 'once') rule.once = flag(value, key, name)
    else if (key === 'immediately') rule.immediately = flag(value, key, name)
    else throw new BlockError('EINVAL', `${name}: inject-error has no parameter '${key}'`)
  }
  if (rule.event === undefined) throw new BlockError('EINVAL', 'Missing event name for rule')
  if (rule.iotype !== undefined && !IO_TYPES.includes(rule.iotype)) {
    throw new BlockError('EINVAL', `${name}: iotype '${rule.iotype}' is none of ${IO_TYPES.join(', ')}`)
  }
  return rule
}

function stateRule(values: Map<string, string>, name: string): SetState {
  const event = values.get('event')
  const next = values.get('new_state')
  for (const key of values.keys()) {
    if (!['event', 'state', 'new_state'].includes(key))
      throw new BlockError('EINVAL', `${name}: set-state has no parameter '${key}'`)
  }
  if (event === undefined || next === undefined)
    throw new BlockError('EINVAL', `${name}: set-state needs event and new_state`)
  const state = values.get('state')
  const newState = number(next, 'new_state', name)
  return state === undefined ? { event, newState } : { event, newState, state: number(state, 'state', name) }
}

function number(value: string, key: string, name: string): number {
  if (!/^-?\d+$/.test(value)) throw new BlockError('EINVAL', `${name}: ${key} '${value}' is not a number`)
  return Number(value)
}

function flag(value: string, key: string, name: string): boolean {
  if (!/^(on|off|yes|no|true|false)$/.test(value))
    throw new BlockError('EINVAL', `${name}: ${key} '${value}' is not on or off`)
  return /^(on|yes|true)$/.test(value)
}
