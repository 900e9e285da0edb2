/** Where a kind of device meets what all virtio devices do. */
import type { Now } from '../../block/now.ts'
import type { GuestMemory, Saved } from '../machine.ts'
import type { Chain } from './chain.ts'
import type { Virtqueue } from './queue.ts'
import type { Features } from './standard.ts'

/** What a kind of device, such as a disk, adds to what all virtio devices do. `C` is a buffer of its queues. */
export interface Model<C extends Chain> {
  /** What messages call it. */
  readonly name: string
  /** Virtio device ID, chapter 5. */
  readonly deviceId: number
  /** PCI class code, 24 bits. */
  readonly classCode: number
  /** Feature bits of its own, offered through either interface. */
  readonly features: readonly number[]
  /** Feature bits that only the legacy interface offers. */
  readonly legacyFeatures: readonly number[]
  readonly queues: number
  /** Most entries of a queue, a power of two. */
  readonly queueSize: number
  /** Entries that a queue has through the legacy interface, whose drivers cannot ask for less. */
  readonly legacyQueueSize: number
  /** The device configuration space, as the driver reads it. */
  readonly config: Uint8Array
  /** The same through the legacy interface. */
  readonly legacyConfig: Uint8Array
  /** Requests that the host holds back until someone resumes them; nothing waits for those. */
  readonly held: number
  /** Completes when no request is with the host. */
  drain(): Now<void>
  /** Makes a buffer. */
  chain(queue: Virtqueue<C>): C
  /** Does what a buffer asks for and calls {@link Virtqueue.finish}, at once or later; or answers why the buffer makes no sense. */
  execute(chain: C): string | undefined
  /** All that the driver made available was given to {@link execute}: what was collected may go to the host. */
  taken(): void
  /** The driver writes a byte of the configuration space. */
  writeConfig(at: number, value: number): void
  /** The driver has said which features it accepts; a legacy driver may do so again. */
  negotiated(): void
  /** The driver is ready to drive the device (3.1.1, step 8). */
  ready(): void
  /** Takes back all requests that were given to the host; each still ends. */
  cancel(): void
  /** Power-on state, but for requests that have not ended. */
  reset(): void
  save(): Saved
  /** Takes up a saved state after a reset; false if it is none. */
  restore(saved: unknown): boolean
}

/** What a model may ask of its device. */
export interface Host {
  readonly memory: GuestMemory
  /** Feature bits that the driver accepted. */
  readonly driver: Features
  /** Whether the driver uses the legacy interface. */
  readonly legacy: boolean
  /** The configuration space has changed: tells the driver (2.3). */
  configChanged(): void
  /** A request is now held back. */
  heldBack(): void
}
