/** Logical block provisioning thresholds (SBC-3 4.7.3.8, 6.3.3, 6.4.6): a guest is warned before the image is too large. */
import type { Disk } from '../../../block/disk.ts'
import { after, type Now, rescue } from '../../../block/now.ts'
import { type Condition, invalidParameter, THIN_PROVISIONING_SOFT_THRESHOLD_REACHED } from '../sense.ts'
import { LOG_PROVISIONING, type LogPage, type LogParameter } from '../spc/log.ts'
import type { ModePageSpec } from '../spc/mode.ts'
import { PAGE_EXCEPTIONS } from '../spc/pages.ts'

export const SUBPAGE_PROVISIONING = 0x02

/** Bytes of a threshold set: the unit in which resources are counted. */
export const THRESHOLD_SET = 1 << 20

const DESCRIPTORS = 4
const DESCRIPTOR = 8
const LIST = 12

// The page's flags, and a threshold descriptor's
const SITUA = 1 << 0
const ENABLED = 1 << 7
const ARMING = 0x07
const DECREASING = 0
const INCREASING = 1

const AVAILABLE = 1
const USED = 2

/** What the thresholds need of their unit. */
export interface Provisioned {
  readonly medium: Disk | undefined
  readonly isThin: boolean
  attention(condition: Condition): void
  attentionFor(initiator: number, condition: Condition): void
}

interface Resources {
  readonly used: number
  readonly available: number
}

/** The thresholds of a unit. */
export class Thresholds {
  readonly #unit: Provisioned
  readonly #values: () => Uint8Array
  readonly #reported: () => boolean
  /** Which descriptors have been reported and wait for the resource to come back. */
  readonly #crossed = new Array<boolean>(DESCRIPTORS).fill(false)
  #unseen = 0

  /** `values` are the page's; `reported` tells whether events are turned on (LBPERE). */
  constructor(unit: Provisioned, values: () => Uint8Array, reported: () => boolean) {
    this.#unit = unit
    this.#values = values
    this.#reported = reported
  }

  /** Logical Block Provisioning mode page, 1Ch/02h. */
  readonly page: ModePageSpec = {
    code: PAGE_EXCEPTIONS,
    subpage: SUBPAGE_PROVISIONING,
    defaults: defaults(),
    changeable: changeable(),
    check: (values, at) => {
      for (let i = LIST; i < values.length; i += DESCRIPTOR) {
        if ((values[i]! & ENABLED) === 0) continue
        const arming = values[i]! & ARMING
        if (arming !== DECREASING && arming !== INCREASING) throw invalidParameter(at + i, 2)
        const resource = values[i + 1]!
        // Only a resource that dwindles can be armed decreasing, only one that grows increasing
        if (resource !== (arming === INCREASING ? USED : AVAILABLE)) throw invalidParameter(at + i + 1, 7)
      }
    },
    apply: () => {
      this.#crossed.fill(false)
      this.#unseen = Number.POSITIVE_INFINITY
    },
  }

  /** Logical Block Provisioning log page, 0Ch. */
  readonly log: LogPage = {
    code: LOG_PROVISIONING,
    parameters: () =>
      after(this.#measure(), (resources) =>
        resources === undefined ? [] : [resource(AVAILABLE, resources.available), resource(USED, resources.used)],
      ),
  }

  /** Looks whether a threshold was crossed, after a command of `initiator` that may have changed up to `bytes`. */
  changed(initiator: number, bytes: number): Now<void> {
    if (!this.#reported()) return
    this.#unseen += bytes
    if (this.#unseen < THRESHOLD_SET) return
    const values = this.#values()
    if (!values.some((byte, i) => i >= LIST && (i - LIST) % DESCRIPTOR === 0 && (byte & ENABLED) !== 0)) return
    this.#unseen = 0
    return rescue(
      () =>
        after(this.#measure(), (resources) => {
          if (resources !== undefined) this.#compare(values, resources, initiator)
        }),
      () => {},
    )
  }

  #compare(values: Uint8Array, { used, available }: Resources, initiator: number): void {
    for (let i = 0; i < DESCRIPTORS; i++) {
      const at = LIST + DESCRIPTOR * i
      const flags = values[at]!
      const count = new DataView(values.buffer, values.byteOffset).getUint32(at + 4)
      const beyond = (flags & ARMING) === INCREASING ? used >= count : available <= count
      const report = beyond && (flags & ENABLED) !== 0 && !this.#crossed[i]
      this.#crossed[i] = beyond
      if (!report) continue
      if ((values[0]! & SITUA) !== 0) this.#unit.attentionFor(initiator, THIN_PROVISIONING_SOFT_THRESHOLD_REACHED)
      else this.#unit.attention(THIN_PROVISIONING_SOFT_THRESHOLD_REACHED)
    }
  }

  #measure(): Now<Resources | undefined> {
    const { medium } = this.#unit
    if (medium === undefined) return undefined
    return after(medium.device.allocated(), (bytes) => {
      const used = Math.min(Math.ceil(bytes / THRESHOLD_SET), 0xffffffff)
      const available = Math.min(Math.floor(Math.max(medium.size - bytes, 0) / THRESHOLD_SET), 0xffffffff)
      return { used, available }
    })
  }
}

// By turns one for what is used and one for what is left; a guest gives the counts and turns them on
function defaults(): Uint8Array {
  const bytes = new Uint8Array(LIST + DESCRIPTOR * DESCRIPTORS)
  for (let i = 0; i < DESCRIPTORS; i++) {
    const increasing = i % 2 === 0
    bytes[LIST + DESCRIPTOR * i] = increasing ? INCREASING : DECREASING
    bytes[LIST + DESCRIPTOR * i + 1] = increasing ? USED : AVAILABLE
  }
  return bytes
}

function changeable(): Uint8Array {
  const bytes = new Uint8Array(LIST + DESCRIPTOR * DESCRIPTORS)
  bytes[0] = SITUA
  for (let i = LIST; i < bytes.length; i += DESCRIPTOR)
    bytes.set([ENABLED | ARMING, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff], i)
  return bytes
}

// SBC-3 6.3.3: the count and, in the byte after it, that it is of this unit alone
function resource(code: number, count: number): LogParameter {
  const value = new Uint8Array(8)
  new DataView(value.buffer).setUint32(0, count)
  value[4] = 1
  return { code, kind: 'list', value }
}
