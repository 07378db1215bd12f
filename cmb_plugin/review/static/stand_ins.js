// Stand-ins for parts of NiiVue that take most of the time in which a large scan opens, above all without a graphics card.

const CORNERS = `#version 300 es
layout(location = 0) in vec3 corner;
out vec2 place;
void main() {
  place = corner.xy;
  gl_Position = vec4(2.0 * corner.xy - 1.0, 0.0, 1.0);
}`;

// Uniforms have the names by which NiiVue sets them: a slice of the picture in RAS order, and where that lies in the file.
const GREY = `#version 300 es
precision highp float;
precision highp usampler3D;
uniform usampler3D intensityVol;
uniform float coordZ;
uniform mat4 mtx;
in vec2 place;
out vec4 colour;
void main() {
  float level = float(texture(intensityVol, (vec4(place, coordZ, 1.0) * mtx).xyz).r) / 255.0;
  colour = vec4(level, level, level, level > 0.0 ? 1.0 : 0.0);
}`;

/**
 * Puts them in. NiiVue afterwards shows scans of bytes that are grey levels, in planes, and nothing else.
 * - It blurs and differentiates each scan for its 3D rendering: the shaders for that get no place to draw on, and the
 *   textures for it are not filled with zeros first, since WebGL's are zero anyway.
 * - It brings a scan into RAS order by a shader that also colours and blends; here the levels are only copied.
 */
export function putInStandIns(niivue) {
  const idle = { use: (gl) => gl.viewport(0, 0, 0, 0), uniforms: {} };
  const { rgbaTex } = niivue;
  Object.assign(niivue, {
    blurShader: idle, sobelBlurShader: idle, sobelFirstOrderShader: idle, sobelSecondOrderShader: idle,
    rgbaTex: (texture, unit, sides) => rgbaTex.call(niivue, texture, unit, sides),
    orientShaderU: shader(niivue.gl, CORNERS, GREY),
  });
}

/** A program in the form in which NiiVue keeps its own. */
function shader(gl, vertex, fragment) {
  const program = gl.createProgram(), uniforms = {};
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const part = gl.createShader(kind);
    gl.shaderSource(part, source);
    gl.compileShader(part);
    gl.attachShader(program, part);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i += 1) {
    const { name } = gl.getActiveUniform(program, i);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms, use: (context) => context.useProgram(program) };
}
