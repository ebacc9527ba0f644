import { defineConfig } from 'eslint/config'
import tseslint from 'typescript-eslint'

export default defineConfig(
  { files: ['**/*.ts', '**/*.js'] },
  { ignores: ['.data/'] },
  tseslint.configs.strict,
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // A promise that nobody waits for fails where nobody sees it.
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': ['error', { checksVoidReturn: { arguments: false } }],
      '@typescript-eslint/await-thenable': 'error',
      '@typescript-eslint/return-await': ['error', 'error-handling-correctness-only'],
      '@typescript-eslint/switch-exhaustiveness-check': 'error',
    },
  },
  {
    rules: {
      eqeqeq: ['error', 'always', { null: 'ignore' }],
      'no-console': 'error',
      'no-restricted-properties': [
        'error',
        { object: 'process', property: 'env', message: 'Only server/config.ts reads the environment.' },
      ],
      'no-restricted-imports': ['error', { paths: ['process', 'node:process'] }],
      // "!" says what the types cannot know: that a row of exactly one is there. tsconfig.json's noUncheckedIndexedAccess asks often.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', destructuredArrayIgnorePattern: '^_', ignoreRestSiblings: true },
      ],
      // Libraries are told of our types by declaring them in theirs.
      '@typescript-eslint/no-namespace': ['error', { allowDeclarations: true }],
      '@typescript-eslint/no-dynamic-delete': 'off',
      '@typescript-eslint/no-empty-function': 'off',
      '@typescript-eslint/no-invalid-void-type': 'off',
    },
  },
  { files: ['server/config.ts'], rules: { 'no-restricted-properties': 'off' } },
  // What a person at a terminal reads: the banner, and why a command failed.
  {
    files: ['server/main.js', 'server/commands.ts', 'server/setup/start.ts', 'server/setup/dev.ts'],
    rules: { 'no-console': 'off' },
  },
  // These start other processes, and look into answers of any form.
  {
    files: ['tests/**', 'bench/**'],
    rules: { 'no-console': 'off', 'no-restricted-properties': 'off', '@typescript-eslint/no-explicit-any': 'off' },
  },
)
