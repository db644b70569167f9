// Swagger UI over the service's own document.

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  // A route's way is easier to find in a short page.
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // Nothing is sent to another host, not even to have the document judged.
  validatorUrl: null,
});
