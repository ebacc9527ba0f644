import { availableParallelism } from 'node:os'

// Each version of PostgreSQL is a project, with a throw-away server of its own. The newest has all tests; an older one has
// those of the rules, those that depend on the planner or on the text of SQL, and one that runs every statement that the server
// can send: HTTP, sockets and mails do not know which PostgreSQL it is. Modules stay modules: graphile-worker is one.
export const project = {
  testEnvironment: './tests/harness/environment.ts',
  testMatch: ['<rootDir>/tests/**/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '\\.ts$': '<rootDir>/tests/harness/strip-types.js' },
}
const database = {
  ...project,
  testPathIgnorePatterns: ['/tests/host/', '/tests/deploy/'],
}

export default {
  testTimeout: 30_000,
  // More workers than cores: tests also wait for other processes, for locks and for time to pass. (Jest takes "150%" for 150.)
  maxWorkers: Math.ceil(availableParallelism() * 1.5),
  globalSetup: './tests/harness/postgres.ts',
  globalTeardown: './tests/harness/postgres.teardown.ts',
  projects: [
    {
      ...database,
      displayName: 'PostgreSQL 18',
      globals: { POSTGRES: 18 },
      // What it does with every statement once, the tests of the doors do with this version anyway.
      testPathIgnorePatterns: [...database.testPathIgnorePatterns, '/tests/doors/statements'],
    },
    {
      ...database,
      displayName: 'PostgreSQL 15',
      globals: { POSTGRES: 15 },
      testMatch: [
        '<rootDir>/tests/rules/**/*.test.ts',
        '<rootDir>/tests/chance/model.test.ts',
        '<rootDir>/tests/doors/statements.test.ts',
        '<rootDir>/tests/doors/graphql/{plans,connections,schema}.test.ts',
        '<rootDir>/tests/doors/rest/lists.test.ts',
      ],
    },
    // What starts its own processes, or needs no database.
    { ...project, displayName: 'host', testMatch: ['<rootDir>/tests/host/**/*.test.ts'] },
  ],
}
