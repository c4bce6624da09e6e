"""What `make sandbox` tells whoever runs it: the instances, the callers, the logs, and each client.

Standard output is for scripts; this goes to standard error.
"""

import sys

from eic_sandbox.sandbox import Sandbox

_CLIENTS = """\
With the exports below in your shell:

  ssh-keygen -q -t ed25519 -N '' -f key
  aws ec2-instance-connect send-ssh-public-key --instance-id $EIC_SANDBOX_INSTANCE \\
      --instance-os-user $EIC_SANDBOX_USER --ssh-public-key file://key.pub
  ssh -i key -p $EIC_SANDBOX_PORT $EIC_SANDBOX_USER@$EIC_SANDBOX_HOST

  mssh -p $EIC_SANDBOX_PORT $EIC_SANDBOX_USER@$EIC_SANDBOX_INSTANCE

  ssh -i key -o ProxyCommand="{python} -m eic_sandbox.tunnel_client \\
      --instance-id $EIC_SANDBOX_INSTANCE" $EIC_SANDBOX_USER@$EIC_SANDBOX_INSTANCE

docs/clients.md has every other client. Ctrl-C ends it all."""


def guide(sandbox: Sandbox) -> str:
    """Return the text for this sandbox."""
    lines = ["EC2 Instance Connect on this machine", ""]
    for instance, host in zip(sandbox.instances, sandbox.hosts, strict=True):
        zone = instance.metadata.availability_zone
        lines.append(
            f"{instance.id}  {zone}  ssh {host.user}@{instance.public_ip} -p {instance.ssh_port}  "
            f"private {instance.private_ip}  metadata {instance.metadata_url}"
        )
    lines.append(f"{sandbox.endpoint.id}  wss://{sandbox.endpoint.dns_name}/openTunnel")
    lines += ["", "Callers"]
    lines += [f"{who.access_key_id}  {who.arn}" for who in sandbox.principals]
    lines += ["", "Logs", f"CloudTrail  {sandbox.trail.path}"]
    for instance, host in zip(sandbox.instances, sandbox.hosts, strict=True):
        lines.append(f"{instance.id}  sshd {host.log}  agent {sandbox.journal_of(instance)}")
    return "\n".join([*lines, "", _CLIENTS.format(python=sys.executable)])
