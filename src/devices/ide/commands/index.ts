/** Every command of an ATA disk. */
import type { Command, CommandTable } from '../command.ts'
import { featureCommands } from './features.ts'
import { generalCommands } from './general.ts'
import { logCommands } from './logs.ts'
import { maximumCommands } from './maximum.ts'
import { powerCommands } from './power.ts'
import { sanitizeCommands } from './sanitize.ts'
import { securityCommands } from './security.ts'
import { smartCommands } from './smart.ts'
import { transferCommands } from './transfer.ts'
import { trimCommands } from './trim.ts'

const TABLE: CommandTable = [
  ...generalCommands,
  ...transferCommands,
  ...featureCommands,
  ...powerCommands,
  ...maximumCommands,
  ...trimCommands,
  ...smartCommands,
  ...logCommands,
  ...securityCommands,
  ...sanitizeCommands,
]

/** The commands by opcode; what is undefined is aborted. EXECUTE DEVICE DIAGNOSTIC is the channel's. */
export const COMMANDS: readonly (Command | undefined)[] = Array.from(
  { length: 256 },
  (_, opcode) => TABLE.find(([own]) => own === opcode)?.[1],
)
