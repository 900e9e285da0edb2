/** The LSI Symbios 53C895A SCSI host adapter, to be plugged into a PCI slot. */
import { BlockError } from '../../block/error.ts'
import type { Bus } from '../machine.ts'
import { Lsi53c895a, type LsiOptions } from './chip.ts'
import { variants } from './variants.ts'

export type { LsiOptions } from './chip.ts'

/** The chip with its targets; throws EINVAL for an id that the bus does not have. */
export function lsi53c895a(options: LsiOptions): (bus: Bus) => Lsi53c895a {
  const { wide } = variants[options.model ?? 'lsi53c895a']
  for (const id of options.targets.keys()) {
    if (Number.isInteger(id) && id >= 0 && id <= (wide ? 15 : 7) && id !== 7) continue
    throw new BlockError(
      'EINVAL',
      `Cannot use SCSI id ${id}: it must be 0 to 6${wide ? ' or 8 to 15' : ''}; 7 is the host's`,
    )
  }
  return (bus) => new Lsi53c895a(bus, options)
}
