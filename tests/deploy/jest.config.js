import { project } from '../../jest.config.js'

// What docker-compose.yml starts, as processes of this machine: needs nginx beside Node and npm, so `npm test` leaves it out.
export default {
  ...project,
  rootDir: '../..',
  testEnvironment: 'node',
  testMatch: ['<rootDir>/tests/deploy/**/*.test.ts'],
  testTimeout: 60_000,
  maxWorkers: 1,
}
