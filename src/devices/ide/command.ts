/** What a row of the table of ATA commands is. */
import type { AtaDisk } from './ata.ts'

/** How a command moves its data [ATA8-ACS 4.2]. */
export type Protocol = 'non-data' | 'pio-in' | 'pio-out' | 'dma-in' | 'dma-out'

export interface Command {
  /** The name in the standard. */
  readonly name: string
  readonly protocol: Protocol
  /** Whether a locked drive carries it out, too [ATA8-ACS 4.13, security mode command actions]. */
  readonly whileLocked?: true
  /** Whether a drive that sanitizes itself carries it out, too, with these registers [ACS-3 4.17.5]. */
  readonly whileSanitizing?: (ata: AtaDisk) => boolean
  /** Whether this drive offers it; default always. What IDENTIFY DEVICE does not offer is aborted. */
  readonly offered?: (ata: AtaDisk) => boolean
  /** Begins the command; it ends with one of the drive's ways to complete, fail or move data. */
  readonly run: (ata: AtaDisk) => void
  /** Goes on when the host's data are in the buffer. */
  readonly received?: (ata: AtaDisk, data: Uint8Array) => void
}

/** Commands by opcode. */
export type CommandTable = readonly (readonly [opcode: number, command: Command])[]
