/** Power management: IDLE, STANDBY, SLEEP, CHECK POWER MODE [ATA8-ACS 7.3, 7.17, 7.18, 7.56 to 7.58]. */
import type { AtaDisk } from '../ata.ts'
import type { CommandTable } from '../command.ts'
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

export const powerCommands: CommandTable = {
  224: { name: 'STANDBY IMMEDIATE', protocol: 'non-data', whileLocked: true, run: rest(STANDBY, false) },
  225: { name: 'IDLE IMMEDIATE', protocol: 'non-data', whileLocked: true, run: idle(false) },
  226: { name: 'STANDBY', protocol: 'non-data', whileLocked: true, run: rest(STANDBY, true) },
  227: { name: 'IDLE', protocol: 'non-data', whileLocked: true, run: idle(true) },
  229: {
    name: 'CHECK POWER MODE',
    protocol: 'non-data',
    whileLocked: true,
    run: (ata) => {
      ata.count = ata.power.mode
      ata.complete()
    },
  },
  230: {
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
  },
}
