// SQL is not formatted by tool: it would mangle grants and policies.
export default {
  semi: false,
  singleQuote: true,
  printWidth: 130,
  embeddedLanguageFormatting: 'off',
}
