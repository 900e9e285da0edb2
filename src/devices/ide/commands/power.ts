/** Power management: IDLE, STANDBY, SLEEP, CHECK POWER MODE [ATA8-ACS 7.3, 7.17, 7.18, 7.56 to 7.58]. */
import type { AtaDisk } from '../ata.ts'
import type { Command, CommandTable } from '../command.ts'
import { IDLE, STANDBY } from '../power.ts'

// Before the drive goes to rest its write cache is on the medium
const rest = (mode: number, timer: boolean) => (ata: AtaDisk) => {
  ata.completeAfter(() => {
    ata.power.enter(mode, timer ? ata.count & 0xff : undefined)
    return ata.disk.readOnly ? undefined : ata.disk.flush()
  })
}

const idle = (timer: boolean) => (ata: AtaDisk) => {
  ata.power.enter(IDLE, timer ? ata.count & 0xff : undefined)
  ata.complete()
}

const standbyImmediate: Command = {
  name: 'STANDBY IMMEDIATE',
  protocol: 'non-data',
  whileLocked: true,
  run: rest(STANDBY, false),
}
const idleImmediate: Command = { name: 'IDLE IMMEDIATE', protocol: 'non-data', whileLocked: true, run: idle(false) }
const standby: Command = { name: 'STANDBY', protocol: 'non-data', whileLocked: true, run: rest(STANDBY, true) }
const idleWithTimer: Command = { name: 'IDLE', protocol: 'non-data', whileLocked: true, run: idle(true) }
const checkPowerMode: Command = {
  name: 'CHECK POWER MODE',
  protocol: 'non-data',
  whileLocked: true,
  run: (ata) => {
    ata.count = ata.power.mode
    ata.complete()
  },
}
const sleep: Command = {
  name: 'SLEEP',
  protocol: 'non-data',
  whileLocked: true,
  run: (ata) => {
    ata.work(
      () => (ata.disk.readOnly ? undefined : ata.disk.flush()),
      () => ata.sleep(),
      () => ata.abort(),
    )
  },
}

// ATA-3 had two opcodes for each, and hosts of its time try both
export const powerCommands: CommandTable = [
  [0x94, standbyImmediate],
  [0x95, idleImmediate],
  [0x96, standby],
  [0x97, idleWithTimer],
  [0x98, checkPowerMode],
  [0x99, sleep],
  [0xe0, standbyImmediate],
  [0xe1, idleImmediate],
  [0xe2, standby],
  [0xe3, idleWithTimer],
  [0xe5, checkPowerMode],
  [0xe6, sleep],
]
