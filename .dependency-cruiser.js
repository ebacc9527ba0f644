// Walls by door, floors by kind: the rooms of the house, each with the rooms that it stands on. No import points upwards.
const GROUND = ['ground']
const FRAME = [...GROUND, 'sql', 'passwords', 'http', 'live']
const SERVER = [...FRAME, 'graphql/schema', 'graphql', 'rest', 'jobs', 'server', 'setup/embedded', 'setup', 'commands', 'main']

const ROOMS = {
  ground: { path: '^server/(config|errors|logger|metrics|reports|run-until|tracing)[.]ts$', on: [] },
  sql: { path: '^server/sql/', on: GROUND },
  passwords: { path: '^server/passwords[.]ts$', on: [...GROUND, 'sql'] },
  http: { path: '^server/http/', on: [...GROUND, 'sql', 'passwords'] },
  live: { path: '^server/live/', on: [...GROUND, 'sql', 'passwords', 'http'] },
  'graphql/schema': { path: '^server/graphql/schema/', on: FRAME },
  graphql: { path: '^server/graphql/[^/]+$', on: [...FRAME, 'graphql/schema'] },
  rest: { path: '^server/rest/', on: FRAME },
  jobs: { path: '^server/jobs/', on: [...GROUND, 'sql'] },
  server: { path: '^server/server[.]ts$', on: [...FRAME, 'graphql/schema', 'graphql', 'rest'] },
  'setup/embedded': { path: '^server/setup/embedded/', on: GROUND },
  setup: { path: '^server/setup/[^/]+$', on: [...GROUND, 'sql', 'setup/embedded', 'passwords', 'jobs', 'server'] },
  commands: { path: '^server/commands[.]ts$', on: [...GROUND, 'setup', 'jobs', 'server'] },
  main: { path: '^server/main[.]js$', on: ['commands'] },

  'tests/harness': { path: '^tests/harness/', on: SERVER },
  'tests/tools': { path: '^tests/tools/', on: [...SERVER, 'tests/harness'] },
  'tests/rules': { path: '^tests/rules/', on: [...SERVER, 'tests/harness', 'tests/tools'] },
  'tests/doors': { path: '^tests/doors/', on: [...SERVER, 'tests/harness'] },
  'tests/chance': { path: '^tests/chance/', on: [...SERVER, 'tests/harness'] },
  'tests/stories': { path: '^tests/stories/', on: [...SERVER, 'tests/harness'] },
  'tests/deploy': { path: '^tests/deploy/', on: [...SERVER, 'tests/harness'] },
  'tests/host': { path: '^tests/host/', on: [...SERVER, 'tests/harness'] },
  bench: { path: '^bench/', on: [...SERVER, 'tests/harness'] },
}

const OURS = '^(server|tests|bench)/'

export default {
  forbidden: [
    ...Object.entries(ROOMS).map(([name, { path, on }]) => ({
      name,
      comment: `${name} may import from ${on.join(', ') || 'no other room'}.`,
      severity: 'error',
      from: { path },
      to: { path: OURS, pathNot: [path, ...on.map((room) => ROOMS[room].path)] },
    })),
    {
      name: 'no-room',
      comment: 'The file is in no room: name its room here, and say what that room stands on.',
      severity: 'error',
      from: { path: OURS, pathNot: Object.values(ROOMS).map(({ path }) => path) },
      to: {},
    },
    {
      name: 'no-cycle',
      comment: 'Files that import each other are understood only together.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
  ],
  options: {
    // Imports of types count: they are erased at run time, but whoever reads the file has to follow them.
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    includeOnly: OURS,
  },
}
