"""A page to try a model; it asks for the token and loads nothing from elsewhere."""

PAGE = """<!doctype html><meta charset="utf-8"><title>textmill</title>
<style>body{font:16px sans-serif;max-width:45em;margin:2em auto;padding:0 1em}
textarea{width:100%;height:8em;font:inherit}pre{white-space:pre-wrap}</style>
<h1>textmill</h1>
<p>Token (the part after the colon in .textmill/secret):
<input id="token" type="password" autocomplete="off">
<button id="connect">Connect</button> <select id="model"></select></p>
<textarea id="prompt">In the beginning</textarea>
<p>Tokens <input id="count" type="number" value="64" min="1">
Temperature <input id="temperature" type="number" value="0.8" min="0" max="2" step="0.1">
<button id="go">Continue</button></p><pre id="out"></pre>
<script>
const at = id => document.getElementById(id), say = text => at("out").textContent = text;
const headers = () => ({"authorization": "Bearer " + at("token").value.trim(),
  "content-type": "application/json"});
at("connect").onclick = async () => {
  const reply = await fetch("/v1/models", {headers: headers()});
  if (!reply.ok) return say(await reply.text());
  at("model").replaceChildren(...(await reply.json()).data.map(m => new Option(m.id)));
  say("");
};
at("go").onclick = async () => {
  const reply = await fetch("/v1/completions", {method: "POST", headers: headers(),
    body: JSON.stringify({model: at("model").value, prompt: at("prompt").value, stream: true,
      max_tokens: +at("count").value, temperature: +at("temperature").value})});
  if (!reply.ok) return say(await reply.text());
  say(at("prompt").value);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = "";;) {
    const {value, done} = await reader.read();
    if (done) return;
    const events = (held + value).split("\\n\\n");
    held = events.pop();
    for (const event of events) {
      const text = event.slice(6);
      if (text === "[DONE]") return;
      const body = JSON.parse(text);
      at("out").textContent += body.error ? body.error.message : body.choices[0].text;
    }
  }
};
</script>
"""
