"""relative error of dL/dK of a linear layer: directly from one backward, and through S^{-1} from the gradient of U"""

import pandas as pd
import torch

from robust_lowrank import linalg
from robust_lowrank.layers import LowRankLinear
from robust_lowrank.linalg import Factors

N, M, R, BATCH = 256, 256, 32, 512


def run() -> pd.DataFrame:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for decades in (0, 2, 4, 6):
            torch.manual_seed(0)
            core = linalg.orth(torch.randn(R, R, dtype=torch.float64)) * torch.logspace(0, -decades, R, dtype=torch.float64)
            bases = tuple(linalg.orth(torch.randn(n, R, dtype=torch.float64)) for n in (N, M))
            x, delta = torch.randn(BATCH, M, dtype=torch.float64), torch.randn(BATCH, N, dtype=torch.float64)
            exact = delta.T @ (x @ bases[1])
            layer = LowRankLinear(Factors(core.to(dtype), tuple(basis.to(dtype) for basis in bases)))
            layer(x.to(dtype)).backward(delta.to(dtype))
            g_u = delta.to(dtype).T @ (x.to(dtype) @ layer.V.detach() @ layer.S.detach().T)
            through = torch.linalg.solve(layer.S.detach().double(), g_u.double().T).T
            rows.append(
                {
                    "type": str(dtype).removeprefix("torch."),
                    "cond(S)": f"1e{decades}",
                    "direct": f"{float(torch.dist(layer.U.grad.double(), exact) / exact.norm()):.1e}",
                    "through S^-1": f"{float(torch.dist(through, exact) / exact.norm()):.1e}",
                }
            )
    return pd.DataFrame(rows)
