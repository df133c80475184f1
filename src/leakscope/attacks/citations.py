"""BibTeX of the sources, printed by the report for what it ran."""

DLG = """@inproceedings{zhu2019deep,
  title = {Deep Leakage from Gradients},
  author = {Zhu, Ligeng and Liu, Zhijian and Han, Song},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019},
  note = {arXiv:1906.08935}
}"""

IDLG = """@article{zhao2020idlg,
  title = {{iDLG}: Improved Deep Leakage from Gradients},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  journal = {arXiv:2001.02610},
  year = {2020}
}"""

INVERTING = """@inproceedings{geiping2020inverting,
  title = {Inverting Gradients -- How easy is it to break privacy in federated learning?},
  author = {Geiping, Jonas and Bauermeister, Hartmut and Dr{\\"o}ge, Hannah and Moeller, Michael},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  note = {arXiv:2003.14053}
}"""

GRAD_INVERSION = """@inproceedings{yin2021see,
  title = {See through Gradients: Image Batch Recovery via {GradInversion}},
  author = {Yin, Hongxu and Mallya, Arun and Vahdat, Arash and Alvarez, Jose M. and Kautz, Jan and Molchanov, Pavlo},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2021},
  note = {arXiv:2104.07586}
}"""

PHONG = """@inproceedings{phong2017privacy,
  title = {Privacy-Preserving Deep Learning: Revisited and Enhanced},
  author = {Phong, Le Trieu and Aono, Yoshinori and Hayashi, Takuya and Wang, Lihua and Moriai, Shiho},
  booktitle = {Applications and Techniques in Information Security},
  year = {2017}
}"""

ILRG = """@article{ma2023instance,
  title = {Instance-wise Batch Label Restoration via Gradients in Federated Learning},
  author = {Ma, Kailang and Sun, Yu and Cui, Jian and Li, Dawei and Guan, Zhenyu and Liu, Jianwei},
  journal = {International Conference on Learning Representations},
  year = {2023}
}"""
