/**
 * SCSI targets: what a host adapter needs of them.
 *
 * An adapter makes a {@link ScsiTarget}, attaches units to it ({@link DiskUnit}, {@link CdUnit}), and for every command that its guest
 * sends calls `target.submit(command)`. The {@link Task} then says in `phase` (or, while that is `busy`, by `next()`) what
 * it asks for:
 *
 * - `in`, `out`: data. With the guest's whole buffer at hand, `task.moveAll(vec)` goes straight to the disk; or
 *   {@link execute} does all of it. With a program that moves pieces: `task.prepare()` reads ahead (disconnect from the bus while it
 *   is not here), then `task.move(piece)` for each piece; `task.ready` is how much moves without waiting, `task.length` the whole.
 *   `task.cut()` when the initiator has no more. After any of them look at `phase` again.
 * - `status`: `task.status`, `task.sense` (autosense bytes) and `task.transferred`; the task is over.
 * - `aborted`: the task is over and no status is due.
 *
 * Nothing throws or rejects. `target.manage(...)` runs task management; `target.reset(...)` resets. Both complete when no
 * memory that was lent is touched any more; until then the adapter must not let the guest go on.
 */
export {
  type Attribute,
  type Command,
  cdbLength,
  STATUS_ACA_ACTIVE,
  STATUS_BUSY,
  STATUS_CHECK_CONDITION,
  STATUS_CONDITION_MET,
  STATUS_GOOD,
  STATUS_RESERVATION_CONFLICT,
  STATUS_TASK_ABORTED,
  STATUS_TASK_SET_FULL,
} from './command.ts'
export { execute } from './execute.ts'
export type { UnitOptions } from './identity.ts'
export { MediumUnit } from './medium.ts'
export { CdUnit } from './mmc/cd.ts'
export { passthrough, type WholeCommand, type WholeOutcome } from './passthrough.ts'
export { DiskUnit } from './sbc/disk.ts'
export type { PortFlags } from './spc/inquiry.ts'
export { ScsiTarget, type ServiceResponse, type TaskManagement } from './target.ts'
export type { Phase, Task } from './task.ts'
export { LogicalUnit } from './unit.ts'
