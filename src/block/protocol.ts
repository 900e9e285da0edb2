/** What a place that holds bytes must offer, and what the host must: the two contracts behind `#host`. */
import type { BlockDriver } from './device.ts'
import type { Now } from './now.ts'

/** Options of a protocol by their names in camelCase. */
export interface ProtocolOpenOptions {
  readonly readOnly: boolean
  /** The protocol's own options, only names that it lists in `openOptions`. */
  readonly options: Readonly<Record<string, unknown>>
}

/** A protocol whose places have a URL. */
export interface ProtocolDriver {
  readonly name: string
  /** URL schemes, without the colon: `nbd`, `nbd+unix`. */
  readonly schemes: readonly string[]
  /** Names of the options that `open` takes. */
  readonly openOptions?: readonly string[]
  open(url: string, options: ProtocolOpenOptions): Now<BlockDriver>
}

/** How a file of the host is opened. */
export interface FileOptions {
  readonly readOnly?: boolean
  /** Bypass the host's page cache (O_DIRECT); default false. */
  readonly direct?: boolean
  /** How requests that cannot be answered at once reach the kernel; default the best that works. */
  readonly aio?: 'threads' | 'io_uring' | 'native'
  /** Whether others are kept out; `auto` (default): where the file system can. */
  readonly locking?: 'auto' | 'on' | 'off'
  /** Answer at once what the page cache holds; default true. Who does not want that writes much. */
  readonly immediate?: boolean
  /** Longest read that is answered at once, bytes; default what an emulator's thread can spare the time for. */
  readonly readMax?: number
}

/** How a new file is filled. */
export type Preallocation = 'off' | 'falloc' | 'full'

/** What the platform underneath can do; `#host` gives the one of Node or of the browser. */
export interface Host {
  /** Protocols by URL that work here. */
  readonly protocols: readonly ProtocolDriver[]
  /** Opens a file. */
  openFile(name: string, options?: FileOptions): Promise<BlockDriver>
  /** Makes a file of `size` bytes of zeroes, or empties the one that is there, unless someone has it open. */
  createFile(name: string, size: number, preallocation?: Preallocation): Promise<void>
  /** Makes `to` a copy of the file `from` that shares its space, where the file system can (FICLONE); else false, and no file. */
  cloneFile(from: string, to: string): Promise<boolean>
  /** A writable file of no size that nobody else sees and that vanishes when it is closed. */
  temporaryFile(): Promise<BlockDriver>
  /** Asks for large pages under memory that requests will use, before it is filled; with them the device has less to do. */
  preferLargePages?(memory: ArrayBufferLike): void
  /** The full name of `name`, relative to the file (not the folder) `base`, or to the current place. */
  resolveName(name: string, base?: string): string
  /** Whether `name`, links followed, is below the folder that holds the file `base`. */
  isBelow(name: string, base: string): Promise<boolean>
}
