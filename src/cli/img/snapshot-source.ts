/** Internal snapshots as sources: what `-l` names. */
import { asDevice, type BlockDevice } from '../../block/device.ts'
import { ImageDevice } from '../../block/mover.ts'
import { parseKeyValues } from '../node-options.ts'
import { Failure } from './console.ts'
import type { Opened } from './open.ts'
import { withSnapshots } from './snapshot.ts'

/** Names an internal snapshot. */
export interface SnapshotKey {
  readonly id?: string | undefined
  readonly name?: string | undefined
  /** Either of them. */
  readonly key?: string
}

/** What `-l` names. */
export function snapshotKey(text: string): SnapshotKey {
  if (!text.startsWith('snapshot.')) return { key: text }
  const values = new Map<string, string>()
  for (const [name, value] of parseKeyValues(text)) {
    if (name !== 'snapshot.id' && name !== 'snapshot.name')
      throw new Failure(`Invalid parameter '${name}'\nblock86: Failed in parsing snapshot param '${text}'`)
    values.set(name, value)
  }
  return { id: values.get('snapshot.id'), name: values.get('snapshot.name') }
}

/** The disk as an internal snapshot has it. */
export async function snapshotDevice(opened: Opened, { id, name, key }: SnapshotKey): Promise<BlockDevice> {
  const failed = (why: string) => new Failure(`Failed to load snapshot: ${why}`)
  const image = withSnapshots(opened)
  if (image === undefined)
    throw failed(
      `Block format '${opened.format}' used by device '' does not support temporarily loading internal snapshots`,
    )
  const all = await image.snapshots()
  const found =
    key === undefined
      ? all.find((each) => (id === undefined || each.id === id) && (name === undefined || each.name === name))
      : (all.find((each) => each.id === key) ?? all.find((each) => each.name === key))
  if (found === undefined) throw failed("Can't find snapshot")
  return asDevice(new ImageDevice(await image.snapshotView(found.id)))
}
