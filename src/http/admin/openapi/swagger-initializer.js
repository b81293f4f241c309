// The logo of Swagger UI needs an inline style sheet, which the content security policy forbids.
const Logo = ({ React }) => ({
  components: {
    Logo: () => React.createElement("img", { src: "keyguard.svg", alt: "KeyGuard", height: 40 }),
  },
});

window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "../openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: "none",
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    plugins: [Logo],
    layout: "StandaloneLayout",
  });
};
