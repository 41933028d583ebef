"use strict";

// Tags that start collapsed: most readers of the page are not administrators.
const COLLAPSED_TAGS = ["Administration", "Groups"];

// A status of errors is one line with their codes until it is opened. With all messages and examples,
// an operation would be four screens long.
function collapseErrors(Response, { React }) {
  const h = React.createElement;
  return function CollapsibleResponse(props) {
    const [isOpen, setOpen] = React.useState(false);
    if (!/^[45]/.test(props.code)) {
      return h(Response, props);
    }
    const examples = props.response.getIn(["content", "application/json", "examples"]);
    const codes = examples.toSet().map((example) => example.getIn(["value", "error"]));
    const toggle = () => setOpen(!isOpen);
    const button = h("button", { type: "button", "aria-expanded": isOpen }, props.code);
    const summary = h(
      "tr",
      { className: "error-summary", onClick: toggle },
      h("td", { className: "response-col_status" }, button),
      h("td", { className: "response-col_description" }, codes.join(", ")),
    );
    return h(React.Fragment, null, summary, isOpen && h(Response, props));
  };
}

// Changes only the default, so that links to an operation and clicks work as usual.
function collapseTags(original) {
  return (_state, key, isShownByDefault) => {
    const isCollapsed = key[0] === "operations-tag" && COLLAPSED_TAGS.includes(key[1]);
    return original(key, isShownByDefault && !isCollapsed);
  };
}

// The page calls the service where it was loaded from, under whichever of its names that is. A call to
// another origin would need CORS.
const BASE = new URL(".", location.href).href.replace(/\/$/, "");

function useOwnOrigin(original) {
  return (document) => {
    const { Password } = document.components.securitySchemes;
    Password.flows.password.tokenUrl = Password.flows.password.refreshUrl = `${BASE}/token`;
    // The field for a token would take the focus from the username, and scroll it out of sight.
    document.components.securitySchemes = { Password };
    for (const operation of Object.values(document.paths).flatMap(Object.values)) {
      operation.security = operation.security.filter((scheme) => "Password" in scheme);
    }
    return original({ ...document, servers: [{ url: BASE }] });
  };
}

// To resolve references, the page would parse the whole document again, which takes as long as all the
// rest. The security schemes, which it asks for when it opens, have none.
function resolveReferences(original, { specActions, specSelectors }) {
  return (path) => {
    const part = specSelectors.specJson().getIn(path);
    return JSON.stringify(part).includes('"$ref"')
      ? original(path)
      : specActions.updateResolvedSubtree(path, part.toJS());
  };
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  // Otherwise the browser would store the token and, beside it, the password as it was typed.
  persistAuthorization: false,
  defaultModelsExpandDepth: -1, // each operation shows its own schemas
  plugins: [
    {
      wrapComponents: { response: collapseErrors },
      statePlugins: {
        layout: { wrapSelectors: { isShown: collapseTags } },
        spec: {
          wrapActions: {
            updateJsonSpec: useOwnOrigin,
            requestResolvedSubtree: resolveReferences,
          },
        },
      },
    },
  ],
});
