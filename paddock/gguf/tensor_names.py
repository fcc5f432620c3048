"""The names of tensors that llama.cpp knows, of all architectures together.

A test compares them with llama-arch.cpp. `blk.7.ffn_up.weight` has the base `blk.%d.ffn_up` and the suffix `weight`.
"""

from __future__ import annotations

import re
from typing import Final

_SUFFIX = re.compile(r"\.(?:weight|bias|scale|scales|input_scale|lora_a|lora_b)$")
_NUMBER = re.compile(r"(?<=\.)\d{1,9}(?=\.|$)")
_MODEL: Final = """
token_embd output_norm token_embd_norm output rope_freqs hrm.z_l_init position_embd token_types cls cls.output cls.norm
enc.output_norm dec.output_norm rope_factors_long rope_factors_short output_res_score output_hc_fn output_hc_base
output_hc_scale output_hc_norm output_hc_down output_hc_up per_layer_token_embd per_layer_model_proj
per_layer_proj_norm altup_unembd_proj altup_proj dense_2 dense_3 nextn.pre_projection nextn.post_projection conv1d
convnext.%d.dw convnext.%d.norm convnext.%d.pw1 convnext.%d.pw2 convnext.%d.gamma posnet.%d.conv1 posnet.%d.conv2
posnet.%d.norm posnet.%d.norm1 posnet.%d.norm2 posnet.%d.attn_norm posnet.%d.attn_q posnet.%d.attn_k posnet.%d.attn_v
posnet.%d.attn_output masked_embd_centroids masked_embd_ordering fc d2t markov_w1 markov_w2 conf_proj
selector_predecessor selector_successor selector_hidden
"""
_LAYER: Final = """
attn_norm attn_q attn_k attn_v attn_output attn_rot_embd ffn_gate_inp ffn_norm ffn_gate ffn_down ffn_up ffn_gate_exps
ffn_gate_up_exps ffn_down_exps ffn_up_exps post_attention_norm attn_q_norm attn_k_norm attn_gate post_ffw_norm
post_ffw_norm_1 post_ffw_norm_2 pre_ffw_norm_2 ffn_gate_shexp ffn_up_shexp ffn_down_shexp exp_probs_b exp_probs_b_vl
ffn_latent_down ffn_latent_up attn_norm_2 attn_qkv layer_output_norm layer_output_scale attn_output_norm ffn.act
ffn_gate_inp_shexp ssm_a ssm_conv1d ssm_dt ssm_ba ssm_alpha ssm_in ssm_norm ssm_out ssm_x ssm_d ssm_dt_norm ssm_b_norm
ssm_c_norm ssm_conv1d_q ssm_conv1d_k ssm_conv1d_v ssm_f_a ssm_f_b ssm_beta ssm_g_a ssm_g ssm_g_b attn_res_score
ffn_res_score ffn_routed_down ffn_routed_up ffn_routed_norm attn_q_a_norm attn_kv_a_norm attn_q_a attn_q_b
attn_kv_a_mqa attn_kv_b attn_kv attn_output_a attn_output_b hc_attn_fn hc_attn_base hc_attn_scale hc_ffn_fn hc_ffn_base
hc_ffn_scale hc_attn_norm hc_attn_down hc_attn_up hc_attn_inject hc_ffn_norm hc_ffn_down hc_ffn_up hc_ffn_inject ple_key
ple_value ple_norm_key ple_norm_query ple_norm_conv ple_conv1d attn_compressor_kv attn_compressor_gate
attn_compressor_ape attn_compressor_norm inp_gate proj post_norm altup_correct_coef altup_correct_scale
altup_predict_coef altup_router altup_router_norm laurel_l laurel_r laurel_post_norm ffn_norm_exps attn_k_b attn_v_b
nextn.eh_proj nextn.embed_tokens nextn.enorm nextn.hnorm nextn.shared_head_head nextn.shared_head_norm attn_sub_norm
ffn_sub_norm time_mix_w1 time_mix_w2 time_mix_lerp_x time_mix_lerp_w time_mix_lerp_k time_mix_lerp_v time_mix_lerp_r
time_mix_lerp_g time_mix_lerp_fused time_mix_first time_mix_decay time_mix_decay_w1 time_mix_decay_w2 time_mix_key
time_mix_value time_mix_receptance time_mix_gate time_mix_ln time_mix_output channel_mix_lerp_k channel_mix_lerp_r
channel_mix_key channel_mix_value channel_mix_receptance time_mix_w0 time_mix_a0 time_mix_a1 time_mix_a2 time_mix_v0
time_mix_v1 time_mix_v2 time_mix_g1 time_mix_g2 time_mix_k_k time_mix_k_a time_mix_r_k attn_sinks shortconv.conv
shortconv.in_proj shortconv.out_proj ffn_gate_chexps ffn_down_chexps ffn_up_chexps vis_attn_qkv vis_attn_output vis_gate
vis_down vis_up indexer.k_norm indexer.proj indexer.attn_k indexer.attn_q_b indexer.q_proj indexer.k_proj
indexer.q_norm indexer_compressor_kv indexer_compressor_gate indexer_compressor_ape indexer_compressor_norm
ffn_gate_tid2eid attn_conv_base attn_conv_proj ffn_conv_base ffn_conv_proj
"""
_ENCODER_LAYER: Final = "attn_norm attn_q attn_k attn_v attn_o attn_rel_b ffn_norm ffn_gate ffn_down ffn_up"
_CROSS_ATTENTION: Final = "cross_attn_norm cross_attn_q cross_attn_k cross_attn_v cross_attn_o cross_attn_rel_b"
KNOWN: Final = frozenset(
    (
        *_MODEL.split(),
        *(f"blk.%d.{name}" for name in _LAYER.split()),
        *(f"enc.blk.%d.{name}" for name in _ENCODER_LAYER.split()),
        *(f"dec.blk.%d.{name}" for name in (*_ENCODER_LAYER.split(), *_CROSS_ATTENTION.split())),
    )
)
"""The base of every name. Those of files before 2024, with one tensor for each expert, are not among them."""
EXPERT: Final = re.compile(r"blk\.\d{1,9}\.ffn_(?:gate|up|down)\.\d{1,9}\.(?:weight|bias|scale)")
"""A tensor of a single expert, as in files before 2024."""


def is_known(name: str) -> bool:
    """Whether an architecture of llama.cpp has a tensor with this name."""
    return _NUMBER.sub("%d", _SUFFIX.sub("", name)) in KNOWN
