import { relative } from 'node:path'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

const guests = ['test/guests/**/*.test.ts']
const slow = [
  'test/crash/**/*.test.ts',
  'test/fuzz/**/*.test.ts',
  'test/interop/**/*.test.ts',
  'test/block/formats/faults.test.ts',
]
/** What is switched off by the environment stays off in a process: these want one of their own. */
const alone = ['test/block/protocols/file-plain.test.ts', 'test/block/protocols/no-ring.test.ts']
/** What takes longest, in the order of that. */
const longest = [
  // While one process makes the guest, if it is not there, the other has this to do.
  'test/crash/qcow2.test.ts',
  'test/guests/virtio-kinds.test.ts',
  'test/guests/virtio.test.ts',
  'test/guests/scsi.test.ts',
  'test/guests/jobs.test.ts',
  'test/guests/ide.test.ts',
  'test/guests/virtio-acpi.test.ts',
  'test/guests/nbd.test.ts',
  'test/guests/qcow2.test.ts',
  'test/interop/io.test.ts',
  'test/interop/nbd-peers.test.ts',
  'test/interop/codecs.test.ts',
  'test/interop/run.test.ts',
  'test/guests/state.test.ts',
  'test/v86/machine.test.ts',
  'test/block/formats/qcow2.test.ts',
  'test/block/protocols/file.test.ts',
  'test/block/formats/check.test.ts',
  'test/block/filters/filters.test.ts',
  'test/block/jobs/files.test.ts',
]

/** Begins with what takes longest, so that at the end no long file runs beside idle cores. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId, project }: TestSpecification) => {
      const found = longest.indexOf(relative(project.config.root, moduleId))
      return found < 0 ? longest.length : found
    }
    return (await super.sort(files)).sort((one, other) => place(one) - place(other))
  }
}

const setupFiles = ['test/setup.ts']
const quick = { testTimeout: 60_000, hookTimeout: 60_000, setupFiles }
const patient = { testTimeout: 600_000, hookTimeout: 600_000, setupFiles }

export default defineConfig({
  test: {
    // Left to itself vitest keeps a core free.
    maxWorkers: '100%',
    sequence: { sequencer: LongestFirst },
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...guests, ...slow, ...alone],
          isolate: false,
          ...quick,
        },
      },
      { test: { name: 'unit-alone', include: alone, ...quick } },
      { test: { name: 'slow', include: slow, isolate: false, ...patient } },
      // Whose machines' memory goes with the process.
      { test: { name: 'guests', include: guests, ...patient } },
    ],
  },
})
