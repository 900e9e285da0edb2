/** `block86 img snapshot`: internal snapshots. */
import { errnoOf, messageOf } from '../../block/error.ts'
import type { Qcow2Image } from '../../block/formats/qcow2/image.ts'
import { snapshotInfo } from '../../block/formats/qcow2/info.ts'
import { parse } from './arguments.ts'
import { type Console, Failure, misuse } from './console.ts'
import { type Opened, openGiven } from './open.ts'
import { strerror } from './reasons.ts'
import { snapshotLines } from './snapshot-list.ts'

const USAGE = `usage: block86 img snapshot [--object OBJECTDEF] [--image-opts] [-U] [-q] [-l | -a SNAPSHOT | -c SNAPSHOT | -d SNAPSHOT] FILENAME

  -l           list the snapshots
  -c SNAPSHOT  make one of this name
  -a SNAPSHOT  make the disk what it was then
  -d SNAPSHOT  delete it
  -U           open it though another program writes to it
  -q           print errors alone
`

const ACTIONS = ['list', 'apply', 'create', 'delete'] as const

/** Runs the verb. */
export async function snapshot(argv: readonly string[], console: Console): Promise<number> {
  const args = parse(
    argv,
    [
      { short: 'l', key: 'list' },
      { short: 'a', key: 'apply', value: true },
      { short: 'c', key: 'create', value: true },
      { short: 'd', key: 'delete', value: true },
      { short: 'q', long: 'quiet' },
      { short: 'U', long: 'force-share' },
    ],
    USAGE,
    console,
  )
  const given = args.options.filter(({ key }) => (ACTIONS as readonly string[]).includes(key))
  if (given.length > 1) throw misuse("Cannot mix '-l', '-a', '-c', '-d'")
  const [name, ...more] = args.operands
  if (name === undefined || more.length > 0) throw misuse('Expecting one image file name')
  const action = given[0]?.key ?? 'nothing'
  const tag = given[0]?.value ?? ''
  const readOnly = action === 'list' || action === 'nothing'
  const forceShare = args.has('force-share')
  if (forceShare && !readOnly)
    throw new Failure(`Could not open '${name}': force-share=on can only be used with read-only images`)
  const opened = await openGiven(console, name, undefined, { readOnly, forceShare }, args.has('image-opts'))
  try {
    if (action === 'list') await list(opened, console)
    else if (action === 'create') await create(opened, tag)
    else if (action === 'apply') await apply(opened, tag)
    else if (action === 'delete') await remove(opened, tag)
  } finally {
    await opened.close()
  }
  return 0
}

/** The image, if its format has internal snapshots. */
export function withSnapshots(opened: Opened): Qcow2Image | undefined {
  return opened.format === 'qcow2' ? (opened.image as Qcow2Image) : undefined
}

async function list(opened: Opened, console: Console): Promise<void> {
  const found = (await withSnapshots(opened)?.snapshots()) ?? []
  if (found.length === 0) return
  console.out.write(`Snapshot list:\n${snapshotLines(found.map(snapshotInfo)).join('\n')}\n`)
}

async function create(opened: Opened, name: string): Promise<void> {
  const image = withSnapshots(opened)
  const refuse = (error: unknown) => {
    const codes: Readonly<Record<string, number>> = {
      ENOTSUP: 95,
      ENOSPC: 28,
      EFBIG: 27,
      EINVAL: 22,
      EROFS: 30,
      EIO: 5,
    }
    return new Failure(`Could not create snapshot '${name}': -${codes[errnoOf(error)] ?? 5} (${strerror(error)})`)
  }
  if (image === undefined) throw refuse({ code: 'ENOTSUP' })
  const now = process.hrtime.bigint() // the wall clock below has no more than milliseconds
  const milliseconds = Date.now()
  try {
    await image.createSnapshot({
      name,
      dateSec: Math.floor(milliseconds / 1000),
      dateNsec: (milliseconds % 1000) * 1e6 + Number(now % 1_000_000n),
      icount: 0,
    })
  } catch (error) {
    throw refuse(error)
  }
}

async function apply(opened: Opened, name: string): Promise<void> {
  const image = withSnapshots(opened)
  const failed = `Could not apply snapshot '${name}': `
  if (image === undefined) throw new Failure(`${failed}Block driver does not support snapshots`)
  try {
    await image.applySnapshot(name)
  } catch (error) {
    const reason = errnoOf(error) === 'ENOENT' ? strerror(error) : messageOf(error)
    throw new Failure(`${failed}Failed to load snapshot: ${reason}`)
  }
}

async function remove(opened: Opened, name: string): Promise<void> {
  const image = withSnapshots(opened)
  const failed = `Could not delete snapshot '${name}': `
  const found = (await image?.snapshots())?.find((each) => each.name === name)
  if (image === undefined || found === undefined) throw new Failure(`${failed}snapshot not found`)
  try {
    await image.deleteSnapshot(found.id)
  } catch (error) {
    throw new Failure(failed + messageOf(error))
  }
}
