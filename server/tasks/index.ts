import type { TaskList } from 'graphile-worker'

/** What the worker can do, by the names that SQL adds jobs under. */
export const tasks: TaskList = {}
