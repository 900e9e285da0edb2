/** What answers for a LUN where there is nothing (SPC-4 5.11, 6.6.1). */
import type { Now } from '../../block/now.ts'
import { type CommandSpec, CommandTable, type Row, u16 } from './command.ts'
import { type Identity, identity } from './identity.ts'
import { CheckCondition, invalidCdb, LOGICAL_UNIT_NOT_SUPPORTED, type Sense } from './sense.ts'
import { standardInquiry } from './spc/inquiry.ts'
import { reportLunsCommand, requestSenseCommand } from './spc/primary.ts'
import { LogicalUnit } from './unit.ts'

// Peripheral qualifier 011b: no peripheral device can be here
const NOT_SUPPORTED = 0x7f

const NOBODY = identity({}, '', '')

class NothingElse extends CommandTable {
  override find(cdb: Uint8Array): Row {
    if (this.entry(cdb[0]!) === undefined) throw new CheckCondition(LOGICAL_UNIT_NOT_SUPPORTED)
    return super.find(cdb)
  }
}

/** A unit that is not there; one is made for every command, for it keeps nothing. */
export class AbsentUnit extends LogicalUnit {
  readonly deviceType = NOT_SUPPORTED
  readonly identity: Identity = NOBODY
  protected readonly table: CommandTable

  constructor(luns: () => readonly number[], reported: (initiator: number) => void) {
    super()
    this.table = new NothingElse([this.#inquiry(), requestSenseCommand(this), reportLunsCommand(luns, reported)], true)
  }

  protected override powerOnAttention(): undefined {}

  protected override pollableSense(): Sense {
    return { condition: LOGICAL_UNIT_NOT_SUPPORTED }
  }

  protected resetUnit(): Now<void> {}
  protected dropHeld(): void {}
  drain(): Now<void> {}
  protected checkMedium(): void {}
  protected checkBusy(): void {}

  protected mayRun(): boolean {
    return true
  }

  protected readonly descriptorSense = false
  protected readonly announcesAborts = false
  protected readonly queueErrors = 'none'

  #inquiry(): CommandSpec {
    return {
      name: 'INQUIRY',
      opcode: 0x12,
      usage: '12 01 ff ff ff 00',
      access: 'any',
      unmindful: true,
      run: (task) => {
        const { cdb } = task
        if ((cdb[1]! & 1) !== 0 || cdb[2] !== 0) throw invalidCdb((cdb[1]! & 1) !== 0 ? 1 : 2)
        const nobody = {
          deviceType: NOT_SUPPORTED,
          identity: NOBODY,
          removable: false,
          versions: [],
          portFlags: {},
          vpdPages: [],
        }
        task.reply(standardInquiry(nobody), u16(cdb, 3))
      },
    }
  }
}
