import 'graphile-config'

export const NamesPlugin: GraphileConfig.Plugin = {
  name: 'NamesPlugin',
  inflection: {
    replace: {
      /** `id` is the row's UUID under its own name; PostGraphile would keep `id` for an opaque node id. */
      _attributeName(previous, _options, details) {
        return previous!({ ...details, skipRowId: true })
      },
      /** A mutation returns the changed row under the name of its type, such as `request`. */
      functionMutationResultFieldName(previous, _options, details) {
        const { codec } = details.resource
        return codec.attributes ? this.camelCase(this.tableType(codec)) : previous!(details)
      },
    },
  },
}
